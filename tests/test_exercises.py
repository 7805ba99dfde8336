"""The exercises: grade passes every solution and nothing else, tells mistakes apart, and gives nothing away."""

import ast
import itertools
import re

import nbformat
import nbrun
import pytest

from minibert.grade import grade

pytestmark = pytest.mark.usefixtures("as_a_user")  # as readers are, without the shape checks: those take their time

FOLDER = nbrun.ROOT / "nbs" / "exercises"
# For each exercise: what is wrong, the text of the solution, the text in its place, and what the grade must name:
# the slip or the first tensor that differs, or its complaint where no tensor can be compared.
WRONG = {
    "01_gelu": {
        "by a tanh": (
            "x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))",
            "0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))",
            "gelu: the tanh approximation",
        ),
        "by a sigmoid": (
            "x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))",
            "x * torch.sigmoid(1.702 * x)",
            "gelu: x · sigmoid(1.702 x)",
        ),
        "relu": ("x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))", "x.clamp(min=0)", "gelu: relu"),
        "no root of two": ("x / math.sqrt(2.0)", "x", "gelu: the root of 2 is missing"),
        "no factor": ("x * 0.5 * (", "x * (", "gelu: the half is missing"),
    },
    "02_layer_norm": {
        "sample variance": (
            "centred.square().mean(-1, keepdim=True)",
            "x.var(-1, keepdim=True)",
            "layer_norm: n - 1 for n",
        ),
        "eps beside the root": (
            "torch.sqrt(variance + eps)",
            "(torch.sqrt(variance) + eps)",
            "layer_norm: eps outside the root",
        ),
        "no bias": (" * weight + bias", " * weight", "layer_norm: no bias"),
        "no weight": (" * weight + bias", " + bias", "layer_norm: no weight"),
        "over the tokens": ("mean(-1, keepdim", "mean(-2, keepdim", "layer_norm: over the tokens"),
    },
    "03_additive_mask": {
        "inverted": (
            "1.0 - attention_mask[:, None, None, :].to(dtype)",
            "attention_mask[:, None, None, :].to(dtype)",
            "additive_mask: inverted",
        ),
        "-10000": ("torch.finfo(dtype).min", "-10000.0", "additive_mask: -10000"),
        "queries": (
            "[:, None, None, :]",
            "[:, None, :, None]",
            "what it returns has shape (3, 1, 7, 1), expected (3, 1, 1, 7)",
        ),
        "minus infinity": ("torch.finfo(dtype).min", "-torch.inf", "additive_mask.mul"),
    },
    "04_split_heads": {
        "reshape alone": (
            "x.unflatten(-1, (heads, -1)).transpose(1, 2)",
            "x.reshape(x.shape[0], heads, x.shape[1], -1)",
            "split_heads: reshape alone",
        ),
        "head_dim before heads": (
            "(heads, -1)).transpose(1, 2)",
            "(-1, heads)).permute(0, 3, 1, 2)",
            "split_heads: head_dim and heads swapped",
        ),
        "heads after tokens": (".transpose(1, 2)", "", "what it returns has shape (3, 7, 5, 6), expected (3, 5, 7, 6)"),
    },
    "05_merge_heads": {
        "reshape alone": (
            "x.transpose(1, 2).flatten(2)",
            "x.reshape(x.shape[0], x.shape[2], -1)",
            "merge_heads: reshape alone",
        ),
        "head_dim before heads": (
            "x.transpose(1, 2).flatten(2)",
            "x.permute(0, 2, 3, 1).flatten(2)",
            "merge_heads: head_dim and heads swapped",
        ),
        "not joined": (".flatten(2)", "", "what it returns has shape (3, 7, 5, 6), expected (3, 7, 30)"),
    },
    "06_pooler": {
        "mean": ("hidden_states[:, 0]", "hidden_states.mean(1)", "pooler_mean"),
        "last token": ("hidden_states[:, 0]", "hidden_states[:, -1]", "pooler_last_token"),
        "no tanh": (".tanh()", "", "pooler_tanh_missing"),
        "first sequence": (
            "hidden_states[:, 0]",
            "hidden_states[0]",
            "what it returns has shape (7, 30), expected (3, 30)",
        ),
    },
    "07_self_output": {
        "no residual": ("projected + input_tensor", "projected", "attention_residual_missing"),
        "norm before the sum": (
            "self.LayerNorm(projected + input_tensor)",
            "self.LayerNorm(projected) + input_tensor",
            "attention_norm_before_sum",
        ),
        "eps of torch's default": (", eps=config.layer_norm_eps", "", "eps_1e-5"),
        "no norm": ("self.LayerNorm(projected + input_tensor)", "projected + input_tensor", "attention_norm_missing"),
        "no projection": (
            "self.dropout(self.dense(hidden_states))",
            "self.dropout(hidden_states)",
            "BertSelfOutput.dense",
        ),
    },
    "08_attend": {
        "no scale": (" / math.sqrt(query.shape[-1])", "", "scale_missing"),
        "no root": ("math.sqrt(query.shape[-1])", "query.shape[-1]", "scale_without_root"),
        "scale by hidden": (
            "math.sqrt(query.shape[-1])",
            "math.sqrt(query.shape[1] * query.shape[-1])",
            "scale_by_hidden",
        ),
        "softmax over queries": ("softmax(dim=-1)", "softmax(dim=-2)", "softmax_over_queries"),
        "softmax over heads": ("softmax(dim=-1)", "softmax(dim=1)", "softmax_over_heads"),
        "no mask": ("(scores + mask)", "scores", "mask_missing"),
        "mask after the softmax": (
            "(scores + mask).softmax(dim=-1)",
            "scores.softmax(dim=-1) * (mask == 0)",
            "mask_after_softmax",
        ),
        "mask multiplied": ("(scores + mask)", "(scores * (mask == 0))", "mask_multiplied"),
        "scores for probabilities": ("(scores + mask).softmax(dim=-1)", "scores + mask", "softmax_missing"),
        "results swapped": (
            "probs @ value, probs",
            "probs, probs @ value",
            "tensor 0 that it returns has shape (3, 5, 7, 7), expected (3, 5, 7, 6)",
        ),
    },
    "09_embeddings": {
        "no segments": (" + self.token_type_embeddings(token_type_ids)", "", "segments_missing"),
        "segments from zeros": ("(token_type_ids)\n", "(torch.zeros_like(token_type_ids))\n", "segments_zero"),
        "no positions": ("embeddings = embeddings + self.position_embeddings(positions)", "", "positions_missing"),
        "positions from 1": (
            "torch.arange(input_ids.shape[1])",
            "torch.arange(1, input_ids.shape[1] + 1)",
            "positions_from_1",
        ),
        "positions after the norm": (
            "        embeddings = embeddings + self.position_embeddings(positions)\n"
            "        return self.dropout(self.LayerNorm(embeddings))",
            "        return self.LayerNorm(embeddings) + self.position_embeddings(positions)",
            "positions_after_norm",
        ),
        "no norm": ("self.LayerNorm(embeddings)", "embeddings", "embeddings_norm_missing"),
        "words scaled": (
            "self.word_embeddings(input_ids) +",
            "self.word_embeddings(input_ids) * 30**0.5 +",
            "words_scaled",
        ),
        "eps of torch's default": (", eps=config.layer_norm_eps", "", "eps_1e-5"),
    },
    "10_self_attention": {
        "no scale": (" / math.sqrt(query.shape[-1])", "", "scale_missing"),
        "query and key swapped": ("query @ key.transpose", "key @ query.transpose", "query_key_swapped"),
        "softmax over queries": ("softmax(dim=-1)", "softmax(dim=-2)", "softmax_over_queries"),
        "heads not transposed": (
            "x.unflatten(-1, (self.heads, -1)).transpose(1, 2)",
            "x.reshape(x.shape[0], self.heads, x.shape[1], -1)",
            "heads_not_transposed",
        ),
        "heads not merged": (
            "(probs @ value).transpose(1, 2).flatten(2)",
            "(probs @ value).reshape(hidden_states.shape)",
            "BertSelfAttention: joined by a reshape alone",
        ),
        "values from keys": ("self.value(hidden_states)", "self.key(hidden_states)", "value_from_key"),
        "no mask": ("(scores + attention_mask)", "scores", "mask_missing"),
        "dropout while graded": ("self.dropout(", "nn.functional.dropout(", "BertSelfAttention.context"),
    },
    "11_layer": {
        "no activation": (
            "nn.functional.gelu(self.intermediate.dense(attended))",
            "self.intermediate.dense(attended)",
            "activation_missing",
        ),
        "gelu by a tanh": ("dense(attended))", "dense(attended), approximate='tanh')", "gelu_tanh"),
        "relu": ("functional.gelu", "functional.relu", "relu"),
        "residual from the wrong place": ("narrowed + attended", "narrowed + hidden_states", "residual_of_layer_input"),
        "no residual": ("narrowed + attended", "narrowed", "output_residual_missing"),
        "norm before the sum": (
            "self.output.LayerNorm(narrowed + attended)",
            "self.output.LayerNorm(narrowed) + attended",
            "output_norm_before_sum",
        ),
        "the attention's norm": ("self.output.LayerNorm(", "self.attention.output.LayerNorm(", "norm_shared"),
        "feed-forward on the input": ("dense(attended)", "dense(hidden_states)", "feed_forward_on_layer_input"),
    },
    "12_encoder": {
        "one layer short": ("in self.layer:", "in self.layer[:-1]:", "it returns 4 tensors, expected 5"),
        "one layer for all": (
            "[BertLayer(config) for _ in range(config.num_hidden_layers)]",
            "[BertLayer(config)] * config.num_hidden_layers",
            "one module of yours stands in several places",
        ),
        "not chained": ("layer(states[-1], ", "layer(hidden_states, ", "BertEncoder: layers not chained"),
        "no mask": ("attention_mask)[0]", "None)[0]", "mask_missing"),
        "no embeddings among the states": ("tuple(states)", "tuple(states[1:] + states[-1:])", "returned@2"),
    },
    "13_causal_mask": {
        "does not see itself": ("place <= place", "place < place", "causal_mask: does not see itself"),
        "sees the next": (
            "place <= place[key - query :, None]",
            "place <= place[key - query :, None] + 1",
            "causal_mask: sees the next",
        ),
        "no triangle": (
            "place <= place[key - query :, None]",
            "(place >= 0).expand(query, key)",
            "causal_mask: no causality",
        ),
        "no padding": (
            " * attention_mask[:, None, None, :]",
            " * torch.ones_like(attention_mask)[:, None, None, :]",
            "causal_mask: padding forgotten",
        ),
        "queries taken for the first": (
            "place[key - query :, None]",
            "place[:query, None]",
            "causal_mask: cached tokens after the new",
        ),
        "no axis for the heads": (
            "is_seen.to(attention_mask.dtype) * attention_mask[:, None, None, :]",
            "is_seen.to(attention_mask.dtype) * attention_mask[:, None, :]",
            "what it returns has shape (3, 7, 9), expected (3, 1, 7, 9)",
        ),
    },
    "14_relative_scores": {
        "turned round": (
            "place[key - query.shape[2] :, None] - place",
            "place - place[key - query.shape[2] :, None]",
            "relative_scores: negative distances",
        ),
        "no shift": ("distance + len(table) // 2", "distance", "relative_scores.getitem"),
        "shift off by one": ("len(table) // 2", "len(table) // 2 + 1", "relative_scores: off by one"),
        "queries taken for the first": (
            "place[key - query.shape[2] :, None]",
            "place[: query.shape[2], None]",
            "relative_scores: positions from the first key",
        ),
        "scaled": (
            'torch.einsum("bhld,lrd->bhlr", query, vectors)',
            'torch.einsum("bhld,lrd->bhlr", query, vectors) / query.shape[-1] ** 0.5',
            "returned",
        ),
    },
    "15_cached_attend": {
        "no causal mask": ("scores.masked_fill(is_hidden, -torch.inf)", "scores", "cached_attend: no causality"),
        "triangle without the past": (
            "place[-query.shape[2] :, None]",
            "place[: query.shape[2], None]",
            "cached_attend: cached tokens not counted",
        ),
        "past after the new": ("[past[0], key]", "[key, past[0]]", "cached_attend.key_with_past"),
        "past values after the new": ("[past[1], value]", "[value, past[1]]", "cached_attend.value_with_past"),
        "only the new returned": (
            "(keys, values)",
            "(key, value)",
            "tensor 1 that it returns has shape (3, 5, 3, 6), expected (3, 5, 7, 6)",
        ),
        "no scale": (" / math.sqrt(query.shape[-1])", "", "scale_missing"),
    },
    "16_model": {
        "no scale": (" / math.sqrt(query.shape[-1])", "", "scale_missing"),
        "segments ignored": (" + self.token_type_embeddings(token_type_ids)", "", "segments_missing"),
        "mask inverted": (
            "1.0 - attention_mask[:, None, None, :].to(x.dtype)",
            "attention_mask[:, None, None, :].to(x.dtype)",
            "mask_inverted",
        ),
        "-10000": ("torch.finfo(x.dtype).min", "-10000.0", "mask_10000"),
        "gelu by a tanh": ("dense(attended))", "dense(attended), approximate='tanh')", "gelu_tanh"),
        "residual from the wrong place": (
            "self.output(widened, attended)",
            "self.output(widened, x)",
            "residual_of_layer_input",
        ),
        "pooler on the mean": ("x[:, 0]", "x.mean(1)", "pooler_mean"),
        "no tanh": (").tanh()", ")", "pooler_tanh_missing"),
    },
}

# Answers that are not even wrong: the exercise, what to replace in its solution, and by what; what the grade must say.
UNFIT = {
    "raises when it is made": (
        "06_pooler",
        "nn.Linear(config.hidden_size",
        "nn.Linear(config.hiden_size",
        "hiden_size",
    ),
    "raises when it is called": ("06_pooler", "hidden_states[:, 0]", "hidden_state[:, 0]", "hidden_state"),
    "does not finish the sentence": ("08_attend", "return probs @ value, probs", "return", "returns 0 tensors"),
    "forgets the second result": (
        "08_attend",
        "return probs @ value, probs",
        "return probs @ value",
        "returns 1 tensors",
    ),
    "returns a list": ("01_gelu", "return x *", "return x.tolist() or x *", "returns 0 tensors"),
    "returns another shape": ("06_pooler", "hidden_states[:, 0]", "hidden_states[:, :1]", "has shape (3, 1, 30)"),
    "returns another dtype": (
        "01_gelu",
        "return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))",
        "return (x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))).float()",
        "float32",
    ),
    "returns nan": ("06_pooler", ".tanh()", ".log()", "nan"),
    "lacks a parameter": (
        "06_pooler",
        "self.dense = nn.Linear(config.hidden_size, config.hidden_size)",
        "pass",
        "no parameter: ",
    ),
    "calls a parameter otherwise": ("07_self_output", "LayerNorm =", "layer_norm =", "no parameter: "),
    "has a parameter too many": (
        "06_pooler",
        "super().__init__()",
        "super().__init__()\n        self.more = nn.Linear(1, 1)",
        "more.weight",
    ),
    "has a parameter of another shape": (
        "06_pooler",
        "(config.hidden_size, config.hidden_size)",
        "(config.hidden_size, 2 * config.hidden_size)",
        "has shape (60, 30)",
    ),
    "changes its input": ("07_self_output", "projected + input_tensor", "input_tensor.add_(projected)", "in place"),
    "takes other arguments": ("12_encoder", "attention_mask:", "mask, attention_mask:", "argument"),
    "is no module yet": ("06_pooler", "super().__init__()", "pass", "__init__"),
}


def solution(exercise):
    return (FOLDER / "solutions" / f"{exercise}.py").read_text(encoding="utf-8")


def name_of(source):
    """What the source is about: the last thing that it defines."""
    return ast.parse(source).body[-1].name


def made(source):
    namespace = {"__name__": "answer"}
    exec(compile(source, "answer.py", "exec"), namespace)
    return namespace[name_of(source)]


def changed(exercise, old, new):
    source = solution(exercise)
    assert old in source, f"{exercise}: the solution no longer has {old!r}"
    return made(source.replace(old, new))


def notebook(exercise):
    return nbformat.read(FOLDER / f"{exercise}.ipynb", as_version=4)


def code(exercise):
    return [cell.source for cell in notebook(exercise).cells if cell.cell_type == "code"]


class Mutator(ast.NodeTransformer):
    """Changes the `number`-th sign, comparison or whole number of a source."""

    SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.LtE: ast.Lt, ast.Gt: ast.GtE}

    def __init__(self, number):
        self.left = number

    def generic_visit(self, node):
        is_number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if type(node) in self.SIGNS or is_number:
            self.left -= 1
            if self.left == -1:
                return ast.Constant(node.value + 1) if is_number else self.SIGNS[type(node)]()
        return super().generic_visit(node)


def mutants(exercise):
    """The solution, wrong by one sign, comparison or number."""
    for number in itertools.count():
        mutator = Mutator(number)
        source = ast.unparse(mutator.visit(ast.parse(solution(exercise))))
        if mutator.left >= 0:
            return
        yield source


def signatures(source):
    """Of the last definition, and of the functions in it: names, arguments, types, docstrings."""
    tree = ast.parse(source).body[-1]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found = {f.name: (ast.dump(f.args), ast.dump(f.returns) if f.returns else "") for f in functions}
    return {"what": (tree.name, ast.get_docstring(tree)), **found}


def secrets(exercise):
    """The lines of the solution that a reader has to find."""
    known = {line.strip() for source in code(exercise) for line in source.splitlines()}
    lines = {line.strip() for line in solution(exercise).splitlines()}
    return {line for line in lines - known if not line.startswith(("import ", "from "))}


def told(answer):
    """All that an answer of the grade shows, in a terminal or in a notebook."""
    shown = [getattr(answer, f"_repr_{kind}_", str)() for kind in ("html", "markdown")]
    return "\n".join([str(answer), *shown])


def names(answer, expected):
    """Whether the grade says what is wrong."""
    return expected in (answer.first, *answer.slips) if answer.comparison else expected in answer.complaint


@pytest.mark.parametrize("exercise", WRONG)
def test_solution_passes(exercise):
    answer = grade(made(solution(exercise)))
    assert answer.passed and answer.first is None and not answer.slips, str(answer)
    assert {secret for secret in secrets(exercise) if secret in told(answer)} == set()


@pytest.mark.parametrize("exercise", WRONG)
def test_wrong_answers_are_told_apart(exercise):
    answers = {what: grade(changed(exercise, *bug[:2])) for what, bug in WRONG[exercise].items()}
    assert [what for what, answer in answers.items() if answer.passed] == []
    unnamed = {what: str(answer) for what, answer in answers.items() if not names(answer, WRONG[exercise][what][2])}
    assert unnamed == {}
    assert len({str(answer) for answer in answers.values()}) == len(answers)
    shown = "\n".join(map(told, answers.values()))
    assert {secret for secret in secrets(exercise) if secret in shown} == set()


# The whole model has the lines of the others, and takes long.
@pytest.mark.parametrize("exercise", list(WRONG)[:-1])
def test_no_mutant_passes(exercise):
    passed = [source for source in mutants(exercise) if grade(made(source)).passed]
    assert not passed, "\n\n".join(passed)


@pytest.mark.parametrize("exercise", WRONG)
def test_notebook_gives_nothing_away(exercise):
    page = "\n".join(cell.source for cell in notebook(exercise).cells)
    assert {secret for secret in secrets(exercise) if secret in page} == set() != secrets(exercise)


@pytest.mark.parametrize("exercise", WRONG)
def test_blank_is_not_written_yet(exercise):
    source = "\n".join(cell for cell in code(exercise) if not cell.startswith("grade("))
    answer = grade(made(source))
    assert not answer.passed and answer.first is None and not answer.slips
    assert "not written yet" in str(answer)


@pytest.mark.parametrize("what", UNFIT)
def test_unfit_answer_is_told_why(what):
    exercise, old, new, says = UNFIT[what]
    answer = grade(changed(exercise, old, new))
    assert not answer.passed and says in str(answer), str(answer)


def test_unfit_answers_are_told_apart():
    answers = {str(grade(changed(exercise, old, new))) for exercise, old, new, _ in UNFIT.values()}
    assert len(answers) == len(UNFIT)


def test_every_notebook_has_its_solution_and_three_wrong_answers():
    notebooks = {path.stem for path in FOLDER.glob("[!_.]*.ipynb")} - {"index"}
    assert notebooks == {path.stem for path in (FOLDER / "solutions").glob("*.py")} == WRONG.keys()
    assert len(notebooks) >= 12 and all(len(wrong) >= 3 for wrong in WRONG.values())
    assert {FOLDER / f"{name}.ipynb" for name in notebooks} < set(nbrun.notebooks())


@pytest.mark.parametrize("exercise", WRONG)
def test_notebook_asks_for_what_the_solution_is(exercise):
    cells = notebook(exercise).cells
    *_, blank, graded = code(exercise)
    assert signatures(blank).items() <= signatures(solution(exercise)).items()
    assert graded == f"grade({name_of(blank)})" and "raise NotImplementedError" in blank
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert 2 <= text.count("<summary>Hint") == text.count("</details>") <= 4
    assert "## When it passes" in text and re.search(r"\*\*Next:\*\* \[.*\]\(\S+\.ipynb\)", text)


def test_index_lists_every_exercise_with_its_minutes():
    text = "\n".join(cell.source for cell in notebook("index").cells)
    rows = re.findall(r"^\| (\d+) \| \[(\w+)\]\((\w+)\.ipynb\) \|.*\| (\w+) \| (\d+) \|$", text, re.MULTILINE)
    assert [(int(number), stem) for number, _, stem, _, _ in rows] == list(enumerate(WRONG, start=1))
    for _, name, exercise, level, minutes in rows:
        assert name == name_of(solution(exercise))
        assert f"**{level.capitalize()}, about {minutes} minutes.**" in notebook(exercise).cells[0].source
