"""A bug planted in a page's own code makes that page fail: none of its checks passes by accident.

The classic mistakes, those in `MUTATIONS`, are not among these: nbs/26_mutations.ipynb plants them in the pages and
asserts that none survives, and test_slips.py plants them in copies of the package.
"""

import re

import nbformat
import nbrun
import pytest

BUGS = {
    "00_check": {
        "values never compared": ("if largest > atol:", "if largest > 1e9:"),
        "shapes may be stretched": ("if mine.shape != reference.shape:", "if mine.numel() < reference.numel():"),
        "constants accepted": ("if not spread > atol >= 0:", "if spread < 0:"),
    },
    "01_trace": {
        "no copy before the next write": ("return tensor.detach().clone()", "return tensor.detach()"),
        "views recorded": ("if inputs and memory(x) not in places]", "if inputs]"),
        "in-place writes lost": (
            "one_each([x for x, n in zip(inputs, before, strict=True) if writes(x) > n])",
            "[]",
        ),
        "sources forgotten": ("list(dict.fromkeys(", "list(dict.fromkeys(() and "),
        "memory known by its place": (
            "return StorageWeakRef(tensor.untyped_storage())",
            "return tensor.untyped_storage()._cdata",
        ),
        "inference mode not left": (
            "with torch.inference_mode(False), torch.set_grad_enabled(gradients), recorder:",
            "with recorder:",
        ),
    },
    "02_config": {
        "cross attention with relative positions": (
            'config.num_attention_heads, "absolute")',
            "config.num_attention_heads, kind)",
        ),
        "one distance too few": (
            "(2 * config.max_position_embeddings - 1, head_dim)",
            "(2 * config.max_position_embeddings - 2, head_dim)",
        ),
        "cached tokens forgotten": ("batch, seq, past + seq, seq)", "batch, seq, seq, seq)"),
        "labels named from 1": (
            '{i: f"LABEL_{i}" for i in range(number)}',
            '{i: f"LABEL_{i + 1}" for i in range(number)}',
        ),
        "names that contradict the number": ("require(number in (None, labels),", "require(True,"),
        "pooler always counted": (
            "config.hidden_size, config.hidden_size) if add_pooling_layer else 0",
            "config.hidden_size, config.hidden_size)",
        ),
    },
    "03_embeddings": {
        "segments ignored": (
            "embeddings = words + look_up(self.token_type_embeddings, ",
            "embeddings = words + 0 * look_up(self.token_type_embeddings, ",
        ),
        "positions from 1": (
            "torch.arange(config.max_position_embeddings)[None]",
            "torch.arange(1, config.max_position_embeddings + 1)[None]",
        ),
    },
    "04_masking": {
        "minus infinity": ("torch.finfo(hidden_states.dtype).min", "-torch.inf"),
        "queries masked instead of keys": ("attention_mask[:, None, None, :]", "attention_mask[:, None, :, None]"),
    },
    "07_outputs": {
        "absent outputs kept": ("is not None:", "is not ...:"),
        "index by position in the dictionary's keys": ("else self.to_tuple()[key]", "else tuple(self)[key]"),
    },
    "08_encoder": {
        "attentions cut off from the graph": ("[x for x in others if", "[x.detach() for x in others if"),
        "mask for no layer": ("kept.last, attention_mask, mask", "kept.last, None, mask"),
        "everything kept": (
            "self.hidden_states += [hidden_states] if wants_states else []",
            "self.hidden_states.append(hidden_states)",
        ),
    },
    "10_model": {
        "mask forgotten": (
            "make_mask(attention_mask, embeddings, ",
            "make_mask(None, embeddings, ",
        ),
        "segments and positions swapped": (
            "self.embeddings(input_ids, token_type_ids, position_ids, ",
            "self.embeddings(input_ids, position_ids, token_type_ids, ",
        ),
        "pooled from the embeddings": ("self.pooler(encoded[0])", "self.pooler(encoded[0] * 2)"),
        "another deviation of new weights": (
            "init_weights_(module, config.initializer_range)",
            "init_weights_(module, 0.03)",
        ),
        "no None for a missing pooler": (
            "return encoded[0], vectors, *",
            "return encoded[0], *([] if vectors is None else [vectors]), *",
        ),
    },
    "12_walk": {
        "every row agrees": ("agree += same", "agree += 1"),
    },
    "13_activations": {
        "tanh form not asked for": ('partial(nn.GELU, approximate="tanh")', "nn.GELU"),
        "short constant": ("0.7978845608", "0.79788456"),
        "accurate is fast": (
            '"gelu_accurate": partial(Formula, gelu_new)',
            '"gelu_accurate": partial(Formula, gelu_fast)',
        ),
        "clipped at 0": ("(x), -10, 10)", "(x), 0, 10)"),
    },
    "14_relative": {
        "cached tokens forgotten": ("place[key - query :, None]", "place[:query, None]"),
        "rows off by one": ("+ self.longest - 1)", "+ self.longest - 2)"),
        "key's term made from the query": (
            'torch.einsum("bhrd,lrd->bhlr", key, vectors)',
            'torch.einsum("bhld,lrd->bhlr", query, vectors)',
        ),
    },
    "15_causal": {
        "cached tokens behind": ("torch.cat([cached, visible], dim=-1)", "torch.cat([visible, cached], dim=-1)"),
        "padding forgotten": (
            " * attention_mask[:, None, None, :]",
            " * torch.ones_like(attention_mask)[:, None, None, :]",
        ),
    },
    "17_cache": {
        "one cached token short": (
            "return past_key_values[0][0].shape[2] if",
            "return past_key_values[0][0].shape[2] - 1 if",
        ),
        "extra layers ignored": ("if len(past_key_values) != len(heads):", "if len(past_key_values) < len(heads):"),
        "values not compared with keys": ("for _ in range(2):", "for _ in range(1):"),
        "a third tensor ignored": ("len(layer) not in {2, len(shapes)}", "len(layer) < 2"),
    },
    "18_heads": {
        "head order lost": ("torch.arange(head_dim)).flatten()", "torch.arange(head_dim)).T.flatten()"),
        "more rows than layers accepted": ("and layers == len(sizes)", "and layers >= len(sizes)"),
        "one mask row for all layers": (
            "masks = head_mask[:, None, :, None, None]",
            "masks = head_mask[:1, None, :, None, None].expand(len(head_mask), -1, -1, -1, -1)",
        ),
        "frozen weights thawed": (
            "nn.Parameter(weight, requires_grad=linear.weight.requires_grad)",
            "nn.Parameter(weight)",
        ),
    },
    "19_surgery": {
        "new rows on top": (
            "longer.weight[:kept] = table.weight[:kept]",
            "longer.weight[-kept:] = table.weight[-kept:]",
        ),
        "another parameter": ("table.weight.data = longer.weight.data", "table.weight = longer.weight"),
        "rounded down": ("rows = -(-rows // step) * step", "rows = rows // step * step"),
        "the older kind of checkpointing": ('{"use_reentrant": False} | (', '{"use_reentrant": True} | ('),
    },
    "20_sdpa": {
        "single query causal": ("is_causal = is_causal and query.shape[2] > 1", "pass"),
        "no dropout": ("dropout_p=dropout_p, is", "dropout_p=0.0, is"),
        "no mask after a cache": ("query in (1, key)", "query <= key"),
        "rows ignored": (
            "(attention_mask.ndim == 3 or not (attention_mask == 1).all())",
            "not (attention_mask == 1).all()",
        ),
    },
    "21_audit": {
        "writes taken for views": ("func._schema.is_mutable and name not in MARKS", "False"),
        "the audit records itself": ("with torch._C.DisableTorchFunction():", "if True:"),
        "steps never handed over": ("steps += self.steps[before:]", "pass"),
        "copies are new": ('ATEN_COPIES = {"clone", "_to_copy"}', 'ATEN_COPIES = {"clone"}'),
    },
    "22_lineup": {
        "masks measured": ("torch.where(tensor.abs() < limit, tensor, 0)", "tensor"),
        "float16's mask measured": ("limit = min(HUGE, torch.finfo(tensor.dtype).max / 4)", "limit = HUGE"),
        "healing forwards": ("for row in reversed(rows):", "for row in rows:"),
        "a part serves once": ('if not how.startswith("part"):', "if how:"),
        "guesses run ahead": ("and place < order[other] < end]", "and place < order[other]]"),
    },
    "23_slips": {
        "right steps may change": ("if len(self.steps) in self.right and not", "if False and not"),
        "leaf named by itself": ("kind_of(frames[-2].module)", "kind_of(frames[-1].module)"),
        "half of pre-norm": (
            '"BertSelfOutput.LayerNorm": lambda at: at.inputs[0],',
            '"BertSelfOutput.LayerNorm": lambda at: at.value,',
        ),
        "no distance reversed": ("place[None, :] - place[:, None]", "place[:, None] - place[None, :]"),
    },
    "24_compare": {
        "what is returned never compared": (
            "    if found.agrees:\n        compare_returned(found, output, expected, case)\n    elif",
            "    if",
        ),
        "first of the lineup": (
            "    if step := changed_step(lineup, explained):\n        return step[0]\n",
            "    return lineup.first\n",
        ),
    },
    "25_grade": {
        "order of what is returned ignored": ("if not is_close(ours, right, tolerance(right.dtype)):", "if False:"),
        "dropout turned round": ("    if drops < expected:", "    if drops > expected:"),
    },
    "26_mutations": {
        "text not found ignored": ("if old not in source:", "if False:"),
        "nothing replaced": ("source = source.replace(old, new)", "source.replace(old, new)"),
        "one module of three": ("(*MUTATIONS.get(slip, ()), change)", "(change,)"),
    },
    "27_command": {
        "shapes never compared": ("    if problems or wrong:", "    if problems:"),
        "what is returned never looked at": ("return int(not agrees)", "return int(not found.agrees)"),
        "files overwritten": ("if path.exists() and not force:", "if False:"),
        "an older page overwritten": ("check_place(options.output, options.force)", "pass"),
        "infinity in JSON": ("return value if math.isfinite(value) else None", "return value"),
    },
    "28_files": {
        "names may be paths": ("if not is_plain(name):", "if False:"),
        "links lead out": ("if not any(root in real.parents for root in inside(folder)):", "if False:"),
        "blobs of any folder": ('if root.parent.name == "snapshots" and', "if True or"),
        "blobs for the folder alone": ("for root in (real, real.parent):", "for root in (real,):"),
        "keys may stand twice": ("if len(values) < len(pairs):", "if False:"),
        "as long as it likes": ("if len(content) > limit:", "if False:"),
        "exchanged unnoticed": ("if os.stat(self.path).st_ino != self.number:", "if False:"),
        "noticed only with a file": ("with self.same():\n            return os", "if True:\n            return os"),
        "not held": ("handle = os.open(path, ", "handle = os.open('/', "),
    },
    "29_tokenizer": {
        "what was cut off has the wrong segment": (
            "seconds = [(empty, second) for _, second in rows",
            "seconds = [second for _, second in rows",
        ),
        "odd token to the wrong text": (
            "(less, room - less) if first <= second else",
            "(less, room - less) if first < second else",
        ),
        "the library is told": ("framed = []\n", "framed = []\n    backend.enable_padding()\n"),
        "written in place": ("write_text(text, part)", "write_text(text, path)"),
        "the stride may fill a row": ("options.stride >= max(length - 2, 1)", "options.stride > length"),
        "never asks the hub": ('find_folder(name, [*FILES, "config.json"], hub)', "find_folder(Path(name), [], hub)"),
        "ids without a token decoded": ("if ids[i] >= size:", "if False:"),
    },
    "30_vocabulary": {
        "repeated line read": ("if seen.setdefault(token, number) != number:", "if False:"),
        "byte order mark read": ("if content.startswith(codecs.BOM_UTF8):", "if False:"),
        "a part of any kind taken": ("expect(is_one_of(value, allowed),", "expect(True,"),
        "tokenizer.json overheard": ("for name, path in OVERRULED.items()}", "for name, path in {}.items()}"),
        "the older file always counts": (
            'if "added_tokens_decoder" not in config:\n        path',
            "if True:\n        path",
        ),
        "normalised by default": ('"normalized": not switches.get("special", False)', '"normalized": True'),
        "holes in the ids": ("expect(found == number,", "expect(True,"),
        "size not compared": ("if size > rows:", "if False:"),
    },
    "31_weights": {
        "the header may be longer than the file": ("length > min(HEADER_LIMIT, size - 8)", "length > HEADER_LIMIT"),
        "shapes need not fit": ("if stop - start != needed:", "if stop < start:"),
        "tensors may overlap": ("if start != end:", "if start > end:"),
        "the end never compared": ("if end != room:", "if end > room:"),
        "at an address of its own": ("shift = (start - memory.data_ptr()) % 64", "shift = 0"),
        "programs are harmless": ('code.name == "GLOBAL" and argument not in (*FUNCTIONS, *TYPES)', "False"),
        "new opcodes pass": ("code.name not in KNOWN or ", ""),
        "bombs unpack": ("need(all(item.compress_type == zipfile.ZIP_STORED for item in items)", "need(bool(items)"),
        "claims not held against the file": ("need(sum(rehearsal.storages.values()) <= room", "need(bool(made)"),
        "two lists of files": ("or begin + length != end ", ""),
        "two programs": ("need(len(set(names)) == len(names)", "need(bool(names)"),
        "old files may go on": ("if there != expected:", "if there < expected:"),
        "a billion numbers from one": ("if tensor.numel() * tensor.element_size() > tensor", "if 0 > tensor"),
        "shards may lack a tensor": ('("lacks", promised - names), ', ""),
        "stale files win": ("if len(found) == 2:", "if False:"),
        "infinity is finite": ("return int((~tensor.isfinite()).sum())", "return int(tensor.isnan().sum())"),
    },
    "32_loading": {
        "gamma kept": ("if name.endswith(old):", "if False:"),
        "everything else is a head": ("if has_base and not name.startswith(BASE):", "if True:"),
        "tied in one place": ("for module, leaf in spots:", "for module, leaf in spots[:1]:"),
        "new layers in the middle": ("if inner or missing and not new_head:", "if missing and not new_head:"),
        "another shape passes": ("if source.shape != shapes[name]:", "if len(source.shape) != len(shapes[name]):"),
        "new parameters are zero": ("init_weights_(module, std)", "module.weight.data.zero_()"),
        "infinity loads": ("if not allow_nonfinite:", "if False:"),
        "methods may be hidden": ("and hasattr(BertConfig, name):", "and False:"),
        "left in training mode": ("return model.eval()", "return model"),
        "float32 whatever is asked": ("return FLOATS[name]", "return torch.float32"),
    },
    "33_saving": {
        "written in place": ("exchange(new, folder)", "shutil.copytree(new, folder, dirs_exist_ok=True)"),
        "stale shards kept": ("if Path(folder) == old and REPLACED.fullmatch(name)]", "if False]"),
        "everything else lost": ("            carry_over(folder, new)\n", ""),
        "a tensor under two names": ("model.named_parameters()}", "model.named_parameters(remove_duplicate=False)}"),
        "shards overfull": ("if parts[-1] and size + tensor.nbytes > most:", "if parts[-1] and size > most:"),
        "forgotten folders stay": ("if is_free:", "if False:"),
        "locked folders removed": ("            is_ours = False\n", "            pass\n"),
        "weights for their owner alone": ('shutil.copymode(folder / "config.json", folder / name)', "pass"),
        "in a folder that is gone": ("            go_back(new, folder)\n", ""),
        "open to everybody": ("room.mkdir(mode=0o700)", "room.mkdir()"),
    },
    "34_tasks": {
        "not tied": ("else table.weight\n", "else nn.Parameter(table.weight.clone())\n"),
        "bias never cropped": (
            "if more := table.num_embeddings - len(head.bias):",
            "if (more := table.num_embeddings - len(head.bias)) > 0:",
        ),
        "bias left behind": ("if more := table.num_embeddings - len(head.bias):", "if more := 0:"),
        "drawn twice": ("None if part in made else ", ""),
        "not shifted": (
            "logits[:, :-1].contiguous(), labels[:, 1:])",
            "logits.contiguous(), labels)",
        ),
        "negative labels taken": ("(labels < 0) & (labels != IGNORED)", "labels < IGNORED"),
        "mean over nothing": ("if not (labels != IGNORED).any():", "if False:"),
    },
    "35_classify": {
        "dropout of the attention": ("config.hidden_dropout_prob if", "config.attention_probs_dropout_prob if"),
        "no place is the first": ("(batch,), choices=None)", "(batch,), choices=None).clamp(min=0)"),
        "problem written in any case": (
            "            problem = self.config.problem_type or problem_of(self.num_labels, labels)\n",
            "            problem = self.config.problem_type or problem_of(self.num_labels, labels)\n"
            "            self.config.problem_type = problem\n",
        ),
        "list taken for labels": ("if not isinstance(labels, Tensor):\n        raise", "if False:\n        raise"),
        "dropout of its own ignored": ("hidden_dropout_prob if own is None else own", "hidden_dropout_prob"),
        "problem never written": ("loss, self.config.problem_type = ", "loss, _ = "),
        "numbers stretched": ("if tuple(labels.shape) not in shapes:", "if False:"),
        "choices in the wrong order": (".view(-1, choices)", ".view(choices, -1).T"),
        "not halved": ("end_positions)) / 2", "end_positions))"),
        "places beyond the text are the last": (
            "places.masked_fill(places >= seq, IGNORED)",
            "places.clamp(max=seq - 1)",
        ),
    },
    "36_generate": {
        "old keys copied": ("if func is not torch.cat:", "if True:"),
        "cache written one place too late": (
            "room[:, :, before : before + new.shape[2]] = new",
            "room[:, :, before + 1 : before + 1 + new.shape[2]] = new",
        ),
        "beams keep their rows": ("filled.copy_(filled.index_select(0, rows))", "pass"),
        "more than k on a tie and less": ("scores < worst, -torch.inf", "scores <= worst, -torch.inf"),
        "the word that reaches p lost": ("is_out[:, -least:] = False", "is_out[:, -least:] = is_out[:, -least:]"),
        "ended texts go on": ("words.masked_fill(~going, options.pad_token_id)", "words"),
        "all beams alike at first": ("sums[:, 1:] = -1e9", "sums[:, 1:] = 0"),
        "never too early": ("self.most if is_far else words", "words"),
        "texts that are not among the best end": ("elif rank < options.num_beams:", "else:"),
        "penalty on the whole text": ("ids.shape[1] + 1 - prompt, found", "ids.shape[1] + 1, found"),
        "padding on the right accepted": ("hidden = (mask[:, -1] == 0).nonzero()", "hidden = ()"),
        "one position too few": ("if length - 1 > positions:", "if length > positions + 3:"),
        "encoder overheard": ('"use_cache": use_cache} | others', '"use_cache": use_cache}'),
    },
    "37_sentence": {
        "padding in the mean": ("mask = attention_mask.", "mask = torch.ones_like(attention_mask)."),
        "divided by the longest": ("/ mask.sum(1).clamp(min=1)", "/ mask.shape[1]"),
        "in the order of computing": ("vectors[batch] = ", "vectors[start : start + size] = "),
        "never normalised": ("if self.normalize else vectors", "if False else vectors"),
        "dropout left on": ("module.training = False", "pass"),
        "mode not restored": ("module.training = True", "pass"),
        "cut where the model ends": ("max_length=self.max_length)", "max_length=512)"),
        "unknown steps left out": ("if kinds not in (STEPS[:2], STEPS):", "if False:"),
    },
    "38_language": {
        "agreement with the place": ("*acts(gender, number, other)", "*acts(gender, other, other)"),
        "half of the pairs at random": ("second if label else fitting", "second if not label else fitting"),
        "a place asks for itself": (
            "(weights[..., None] - logs.nan_to_num(neginf=0))",
            "weights[..., None].expand_as(logs)",
        ),
        "words seen are trusted": (
            "(1 - RATE * (1 - KEPT)) * self.emits + RATE * REPLACED * words",
            "self.emits + 1e-9",
        ),
        "kept and replaced alike": ("KEPT * torch.eye(vocab_size, dtype=torch.float64) + ", ""),
        "chance forgotten": (
            "self.prior = self.following + 1 / 2 / self.following.numel()",
            "self.prior = self.following",
        ),
    },
    "39_training": {
        "all chosen become [MASK]": ("is_chosen & (fate < hidden), mask_id", "is_chosen, mask_id"),
        "replaced words are counted from hidden": ("(fate < hidden + replaced)", "(fate < 2 * replaced + hidden)"),
        "marks hidden": ("is_chosen = may_hide & ", "is_chosen = "),
        "first step lost": ("return (step + 1) / warmup", "return step / warmup"),
        "norms decay": ('name.endswith("bias") or "LayerNorm" in name', 'name.endswith("bias")'),
        "another mean": ('count = (batch["labels"] != IGNORED).sum().clamp(min=1)', 'count = batch["labels"].numel()'),
        "gradients add up": ("        optimizer.zero_grad()\n", ""),
        "gradients not cut": (
            "clip_grad_norm_(model.parameters(), recipe.max_norm)",
            "clip_grad_norm_(model.parameters(), 1e9)",
        ),
        "dropout by the clock": ("torch.manual_seed(recipe.seed", "torch.seed() or torch.manual_seed(recipe.seed"),
        "means not kept": ("load(state, checkpoint_id", 'load({"model": state["model"]}, checkpoint_id'),
        "another model taken": ("    check_saved(state, found[-1])\n", ""),
    },
    "40_pretrain": {
        "steps between kept": ("sorted((used | letters)", "sorted(trainer.get_vocab().keys()"),
        "seeds overlap": ("number = seed * STRIDE + step", "number = seed + step"),
        "pieces taken for words": ("if missing := [word for word in words if word not in found]:", "if missing := []:"),
        "marks hidden": ('torch.isin(inputs["input_ids"], words)', 'inputs["input_ids"] >= 0'),
        "always from the start": ("first = load_run(options.folder, model, optimizer)", "first = 0"),
        "together without being started together": ('if kind == "none" and world > 1:', "if False:"),
    },
    "41_explorer": {
        "a line of the recorder": ("sys._getframe(2)", "sys._getframe(0)"),
        "another formula": ("x / sqrt(head_dim)", "x / head_dim"),
        "no residual": ('("dense + residual", "What went into the att', '("dense", "What went into the att'),
        "almost equal": ("a.tobytes() == b.tobytes()", "bool(np.allclose(a, b, atol=1e-5))"),
        "the smaller source is not repeated": ("np.resize(wide[1], wide[0].shape)", "wide[1].ravel()[0]"),
        "bytes in their order": (".reshape(-1, 4).T.tobytes()", ".reshape(-1, 4).tobytes()"),
        "a text ends the script": ('.replace("<", "\\\\u003c")', ""),
        "random dropout": ("if module.training:", "if False:"),
        "queries for keys": ('["query", "key"]', '["key", "query"]'),
        "compared with itself": ("record_with_lines(reference, **inputs)[0]", "record_with_lines(model, **inputs)[0]"),
        "the line after": ("frame.f_lineno", "frame.f_lineno + 1"),
        "all heads are there": ('"all heads" if', '"hidden" if'),
        "parts exchanged": ('"attention" if "attention" in', '"attention" if "attention" not in'),
        "smallest difference": (".max().item():.1e", ".min().item():.1e"),
        "sources in reverse": ('"sources": trace.sources[name]}', '"sources": trace.sources[name][::-1]}'),
    },
    "42_packing": {
        "texts see their neighbours": (
            "self.groups = [(len(list(run)), length) for length, run in groupby(lengths)]",
            "self.groups = [(1, sum(lengths))]",
        ),
        "positions run on": ("- self.starts[self.owners]  # (tokens,)", ""),
        "mean of the longest": ("torch.tensor(self.lengths, device=states.device)[:, None]", "max(self.lengths)"),
        "last token for the first": ("sizes.cumsum(0) - sizes", "sizes.cumsum(0) - 1"),
        "rows in the order of computing": (
            "pooled = laid_out(self.pooler(first.transpose(0, 1)), rows, batch)",
            "pooled = laid_out(self.pooler(first.transpose(0, 1)), rows.sort()[0], batch)",
        ),
        "whole last layer": (
            "first = last.feed_forward(found[0])",
            "first = packing.first(encoder.run(last, states, packing)[0])",
        ),
        "last layer looks at first tokens alone": (
            "last.attention(first, encoder_hidden_states=states, encoder_attention_mask=packing)",
            "last.attention(first)",
        ),
        "empty rows kept": ("[: int((lengths > 0).sum())]", "[: int((lengths > 0).sum()) + 1]"),
        "places by position from the left": (
            "positions = torch.arange(seq, device=input_ids.device) if",
            "positions = torch.zeros(seq, dtype=torch.int64) if",
        ),
        "segments lost": (
            "return rows, places, packing, [x.expand(shape)",
            "given = (input_ids, 0 * segments, positions)\n    return rows, places, packing, [x.expand(shape)",
        ),
        "several rows taken for one": ('check_axes("input_ids", input_ids, 1, len(packing.owners))', "pass"),
        "shapes not checked": ("        check_ids(name, x, shape)\n", "        pass\n"),
        "place in the row": ("self.embeddings(input_ids, token_type_ids, position_ids)", "pass"),
        "gradients stop": (
            "states = self.embeddings(input_ids, segments, positions)  #",
            "states = self.embeddings(input_ids, segments, positions).detach()  #",
        ),
    },
    "43_prepare": {
        "stale weights": ("if self.ready is None or states != self.states:", "if self.ready is None:"),
        "made ready at each call": ("if self.ready is None or states != self.states:", "if True:"),
        "plain layers after all": ("if is_common(self) and not is_plain()", "if False"),
        "gradients lost": ("if torch.is_grad_enabled() or ", "if "),
        "GELU twice": (
            'wanted: Any = 1.0, 0, torch.float32, function, [], "none"',
            'wanted: Any = 1.0, 0, torch.float32, "gelu", [], "none"',
        ),
        "GELU for another function": ("if is_gelu(bend) and", "if"),
        "adapter skipped": ("type(linear) in (nn.Linear, PreparedLinear) and", "isinstance(linear, nn.Linear) and"),
        "hooks skipped": (
            "return any(part._forward_hooks or part._forward_pre_hooks for part in parts)",
            "return False",
        ),
        "converted and still in float32": (
            "weight is not None and weight.dtype == torch.float32 and",
            "weight is not None and",
        ),
        "one step for all weights": ("(weight.abs().amax(1) / 127)", "(weight.abs().amax() / 127).expand(len(weight))"),
        "negative tokens lost": ("zero = math.ceil(-low / step)", "zero = 0"),
        "smallest becomes largest": ("zero = math.ceil(-low / step)", "zero = round(-low / step)"),
        "nan rounded": (
            "if not math.isfinite(high - low):\n        return torch.zeros_like(x, dtype=torch.uint8), math.nan, 0",
            "if not math.isfinite(high - low):\n        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0",
        ),
        "keys before queries": (
            "linears = self.query, self.key, self.value",
            "linears = self.key, self.query, self.value",
        ),
        "pruned and plain": ("            prepare_(part, self.product.dtype)", "            pass"),
        "never undone": ('module.__class__, _ = plain, module.__dict__.pop("product")', "pass"),
        "other types taken": ("require(dtype is None or dtype in PRECISIONS,", "require(True,"),
    },
    "44_stream": {
        "half a file has its name": ("    part = path.with_name(UNFINISHED)\n", "    part = path\n"),
        "texts run into each other": ('update(len(content).to_bytes(8, "little") + content)', "update(content)"),
        "other texts taken for the same": ('if found != says["sha256_of_texts"]:', "if False:"),
        "other weights taken for the same": (".view(torch.uint8).numpy())", ".view(torch.uint8).numpy()[:0])"),
        "all texts drawn at once": ("source = iter(texts)", "source = iter(list(texts))"),
        "numbered anew in each part": ('drawn_from(texts, i * made_by["part"], ', "drawn_from(texts, 0, "),
        "ended at the first full part": ('len(drawn) < made_by["part"]', 'len(drawn) <= made_by["part"]'),
        "two writers in a folder": ("if not is_ours:", "if False:"),
        "nothing read by verify": ("sha256(part.data).hexdigest()) !=", "says['sha256_of_vectors']) !="),
    },
}


@pytest.mark.parametrize(("page", "bug"), [(page, bug) for page, bugs in BUGS.items() for bug in bugs])
def test_page_fails(page, bug, tmp_path):
    right, wrong = BUGS[page][bug]
    nb = nbformat.read(nbrun.ROOT / "nbs" / f"{page}.ipynb", as_version=4)
    exported = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.startswith("#| export")]
    assert any(right in cell.source for cell in exported), "the page no longer has the line that this bug changes"
    for cell in exported:
        cell.source = cell.source.replace(right, wrong)
    nbformat.write(nb, tmp_path / f"{page}.ipynb")
    with pytest.raises(nbrun.NotebookFailed, match="a cell failed") as failure:
        nbrun.execute(tmp_path / f"{page}.ipynb")
    assert not re.search("(Syntax|Name|Import)Error", str(failure.value)), "the bug does not run"
