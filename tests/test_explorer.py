"""The explorer in a real browser: every tensor and every number of the record, by keyboard, by mouse, on a phone."""

import base64
import copy
import linecache
import re
from pathlib import Path

import chromium
import explorers
import numpy as np
import pytest
import torch

from minibert.check import SIZES, lively_
from minibert.config import BertConfig
from minibert.explorer import explained, pack, recipe, record_with_lines, stage_of, write_html
from minibert.model import BertModel
from minibert.tokenizer import BertTokenizer
from minibert.trace import record
from minibert.walk import load_reference, minilm_folder

CAT = explorers.SENTENCES["cat"]
SIXTEEN = "The cat sat on the mat because it was tired, she said."
PROBS = "encoder.layer.5.attention.self.probs"
DENSE = "encoder.layer.1.intermediate.dense"
KINDS = ["source", "user"]


@pytest.fixture(scope="module")
def tokenizer():
    return BertTokenizer.from_pretrained(minilm_folder())


@pytest.fixture(scope="module")
def model():
    return BertModel.from_pretrained(minilm_folder())


@pytest.fixture(scope="module")
def trace(model, tokenizer):
    with torch.no_grad():
        return record(model, **tokenizer(CAT, return_tensors="pt"))


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return tokenizer.convert_ids_to_tokens(tokenizer(CAT)["input_ids"])


@pytest.fixture(scope="module")
def lines(model, tokenizer):
    return record_with_lines(model, **tokenizer(CAT, return_tensors="pt"))[1]


@pytest.fixture(scope="module")
def written(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "cat.html"
    return write_html(model, tokenizer, CAT, path, load_reference(minilm_folder()))


@pytest.fixture
def opened(page, written):
    """Opens the page of the sentence about the cat, at an address within it."""

    def opened(address=""):
        page.goto(f"{written.as_uri()}#{address}")
        page.wait_for_selector("[aria-current]")
        return page

    return opened


def shown(page):
    """The number that the page shows."""
    return np.float32(page.text_content("#number").split()[0])


def all_numbers(page):
    """Every number that the page has, by the tensors' names: the bytes of its Float32Arrays."""
    encoded = page.evaluate("""() => minibert.names.map(name => {
        const {buffer, byteOffset, byteLength} = minibert.values(name);
        const bytes = new Uint8Array(buffer, byteOffset, byteLength);
        return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
    })""")
    return dict(zip(page.evaluate("minibert.names"), map(base64.b64decode, encoded), strict=True))


def choose(page, row, column):
    page.select_option("#row", index=row)
    if page.locator("select#column").count():
        page.select_option("#column", index=column)
    else:
        page.fill("#column", str(column))
        page.press("#column", "Enter")


def texts(page, selector):
    return page.locator(selector).all_text_contents()


def pixels(page, selector, tensor):
    """The colours of a canvas that has a pixel for each number: rows, columns, and red, green, blue."""
    data = page.locator(selector).evaluate("""canvas =>
        Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)""")
    return torch.tensor(data).view(*tensor.shape[-2:], 4)[..., :3]


def statistics(tensor):
    """Mean, standard deviation, smallest and largest, in as many digits as the page shows."""
    numbers = tensor.double().numpy()
    exact = [numbers.mean(), numbers.std(), numbers.min(), numbers.max()]
    return [float(f"{x:.1e}" if abs(x) < 1e-3 else f"{x:.3g}") for x in exact]


def limit(tensor):
    """The size at which colours are full: of a thousand numbers, five are larger."""
    sizes = tensor.abs().flatten().sort().values
    return sizes[int((len(sizes) - 1) * 0.995)].item()


def bar(page):
    """The colours of the legend, from left to right."""
    stops = re.findall(r"rgb\((.+?)\)", page.locator(".legend i").evaluate("bar => bar.style.background"))
    return [[int(n) for n in stop.split(", ")] for stop in stops]


def shown_statistics(page):
    pattern = "mean (.+), standard deviation (.+), from (.+) to (.+)"
    return [float(number) for number in re.fullmatch(pattern, page.text_content("#statistics")).groups()]


# For each wire its kind, and the tiles that its ends touch.
WIRES = """() => {
    const sheet = document.querySelector("#sheet").getBoundingClientRect();
    const tiles = [...document.querySelectorAll(".tile")].map(tile => [tile.title, tile.getBoundingClientRect()]);
    const touched = ({x, y}) => tiles.filter(([name, box]) => {
        const left = box.left - sheet.left, top = box.top - sheet.top;
        return x > left - 1 && x < left + box.width + 1 && y > top - 1 && y < top + box.height + 1;
    }).map(([name]) => name).join();
    return [...document.querySelectorAll("#wires path")].map(path => [path.getAttribute("class") || "",
        touched(path.getPointAtLength(0)), touched(path.getPointAtLength(path.getTotalLength()))]);
}"""


def expected_wires(trace, current):
    kinds = {(name, of): "source" if of == current else "user" if name == current else ""
             for of in trace for name in trace.sources[of]}  # fmt: skip
    return sorted([kind, *pair] for pair, kind in kinds.items() if kind or "mask" not in pair[0])


def matrices(tensor):
    """Heads, rows and columns."""
    return tensor.reshape(tensor.shape[1] if tensor.ndim == 4 else 1, -1, tensor.shape[-1])


def test_every_number_is_the_recorded_one(opened, trace):
    numbers = all_numbers(opened())
    assert list(numbers) == list(trace)
    assert [name for name, tensor in trace.items() if numbers[name] != tensor.numpy().tobytes()] == []


def test_the_arrows_step_through_all_tensors(opened, trace, lines, tokens):
    page, random = opened(), np.random.default_rng(1)
    for step, (name, tensor) in enumerate(trace.items(), 1):
        assert page.text_content("#count") == f"Step {step} of {len(trace)}"
        assert page.get_attribute("[aria-current]", "aria-label").startswith(f"{name}, ")
        assert name in page.text_content("#live") and name in texts(page, "#name") + texts(page, "#path")
        assert (page.text_content("#formula"), page.text_content("#says")) == explained(name)
        file, number = lines[name]
        assert page.text_content("#code") == linecache.getline(file, number).strip()
        assert page.text_content("#place") == f"minibert/{Path(file).name}:{number}"
        assert (page.input_value("#slider"), page.get_attribute("#slider", "aria-valuetext")) == (str(step), name)
        assert shown_statistics(page) == statistics(tensor)
        assert [int(n) for n in re.findall(r" (\d+)", page.text_content("#shape"))] == [*tensor.shape]
        assert page.text_content("#difference") == "equal, bit for bit"
        users = [other for other in trace if name in trace.sources[other]]
        assert (texts(page, "#sources button"), texts(page, "#users button")) == ([*trace.sources[name]], users)
        marked = [page.locator(f".tile.{kind}").evaluate_all("tiles => tiles.map(t => t.title)") for kind in KINDS]
        assert marked == [sorted(trace.sources[name], key=[*trace].index), users]
        heads = matrices(tensor)
        one_row = "[CLS]" if "pooler" in name else "all"
        rows = [one_row] if heads.shape[1] == 1 else [f"{i} {token}" for i, token in enumerate(tokens)]
        assert texts(page, "#row option") == rows
        head, row, column = (int(random.integers(n)) for n in heads.shape)
        if len(heads) > 1:
            page.click(f"label[for=head-{head}]")
            assert page.url.endswith(f"#{name};head={head}")
            drawn = [pixels(page, canvas, tensor) for canvas in (f"label[for=head-{head}] canvas", ".heat canvas")]
            assert torch.equal(*drawn)
        choose(page, row, column)
        assert shown(page) == heads[head, row, column].item()
        page.focus("#panel")
        page.keyboard.press("ArrowRight")
    assert page.text_content("#count") == f"Step {len(trace)} of {len(trace)}" and page.is_disabled("#next")
    assert page.text_content("#users") == "nothing more: it is a result"
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#name") == "pooler.dense"


def test_buttons_slider_tiles_and_layers_lead_to_the_same_place(opened, trace):
    page, names = opened(), [*trace]
    tiles = page.locator(".tile").evaluate_all("tiles => tiles.map(t => [t.title, t.closest('section').ariaLabel])")
    assert tiles == [[name, ", ".join(stage_of(name))] for name in names]
    page.click("#next")
    assert page.url.endswith(f"#{names[1]}")
    page.click("#back")
    assert page.is_disabled("#back")
    page.fill("#slider", "47")
    assert page.url.endswith(f"#{names[46]};head=0")
    assert sorted(page.evaluate(WIRES)) == expected_wires(trace, names[46])
    page.click(f'[aria-label^="{PROBS},"]')
    assert sorted(page.evaluate(WIRES)) == expected_wires(trace, PROBS)
    assert page.text_content("#stage").startswith("Layer 5 · attention")
    page.locator("#stage label", has_text="3").click()
    assert page.url.endswith("#encoder.layer.3.attention.self.probs;head=0")
    page.click("#users button")
    assert page.text_content("#name") == "attention.self.context"
    page.evaluate("location.hash = 'mask_additive'")
    page.wait_for_function("document.querySelector('#name').textContent === 'mask_additive'")
    assert sorted(page.evaluate(WIRES)) == expected_wires(trace, "mask_additive")
    choose(page, 0, 2)
    assert page.text_content("#number") == "0 (all → cat)"


def test_a_head_is_drawn_as_a_matrix_and_as_lines(opened, trace, tokens):
    page, probs = opened(f"{PROBS};head=11"), trace[PROBS][0, 11]
    assert texts(page, ".rows div") == texts(page, ".columns span") == tokens
    assert texts(page, "#lines text") == ["looks", "at", *tokens, *tokens]
    colours = pixels(page, ".heat canvas", probs)
    assert (colours.sum(-1).flatten()[probs.flatten().argsort()].diff() <= 0).all()  # the larger, the darker
    tile = pixels(page, f'[aria-label^="{PROBS},"] canvas', torch.empty(3 * 13, 4 * 13))  # twelve heads, four in a row
    assert (tile.view(3, 13, 4, 13, 3)[2, :, 3] == colours).all()
    assert texts(page, ".legend") == [f"0≥ {limit(trace[PROBS]):.3g}"]
    assert (bar(page)[0], bar(page)[8]) == ([255] * 3, [38, 28, 92])
    assert page.locator("#lines path").count() == int((probs >= 0.01).sum())
    page.locator("#tokens label", has_text=re.compile("^it$")).click()
    drawn = page.locator("#lines path").evaluate_all(
        "all => all.map(path => [path.getAttribute('d'), path.getAttribute('stroke-width')])"
    )
    ends = [re.fullmatch(r"M85 (\S+)C.* 165 (\S+)", d).groups() for d, _ in drawn]
    shares = {key: share for key, share in enumerate(probs[8].tolist()) if share >= 0.01}
    assert [[round((float(y) - 69) / 18, 3) for y in pair] for pair in ends] == [[8, key] for key in shares]
    assert [float(width) for _, width in drawn] == pytest.approx([0.5 + 5 * share for share in shares.values()])
    assert page.url.endswith(";head=11;token=8") and page.text_content(".rows .on") == "it"
    choose(page, 8, 2)
    assert page.text_content("#number").endswith("(it → cat)") and round(100 * float(shown(page))) == 71
    page.locator("#lines text", has_text="tired").first.click()
    assert page.locator("#lines path").count() == int((probs[10] >= 0.01).sum())
    assert page.is_checked("#token-11") and page.input_value("#row") == "10 tired"
    page.locator("#lines text", has_text="tired").first.click()
    assert page.is_checked("#token-0") and page.url.endswith(";head=11")


@pytest.mark.parametrize("name", [PROBS, DENSE, "encoder.layer.1.attention.self.context"])
def test_pointing_reads_the_number_under_the_pointer(opened, trace, name):
    page, heads = opened(name), matrices(trace[name])
    canvas = page.locator(".heat canvas")
    before = canvas.bounding_box()["width"]
    page.set_viewport_size({"width": 4200, "height": 1000})  # wide enough to point at 1,536 columns without scrolling
    page.wait_for_timeout(100)
    box = canvas.bounding_box()
    assert (box["width"] > before) == name.endswith("context")  # the columns grow with the window, if there is room
    for row, column in [(0, 0), (7, 5), (12, 11)]:
        width, height = box["width"] / heads.shape[2], box["height"] / heads.shape[1]
        canvas.hover(position={"x": (column + 0.5) * width, "y": (row + 0.5) * height})
        assert shown(page) == heads[0, row, column].item()
        cell = page.locator(".cell").bounding_box()
        assert 0 < (column + 0.5) * width - (cell["x"] - box["x"]) < cell["width"] < width + 6
        assert 0 < (row + 0.5) * height - (cell["y"] - box["y"]) < cell["height"] < height + 6
    if name != PROBS:
        for mark in page.locator(".columns span").all():
            assert abs(mark.bounding_box()["x"] - box["x"] - int(mark.text_content()) * width) < 1.5


def test_colours_tell_the_sign_and_the_size(opened, trace):
    name = "encoder.layer.2.output.sum"
    page, numbers = opened(name), trace[name][0]
    colours, most = pixels(page, ".heat canvas", numbers), limit(numbers)
    blue_over_red = colours[..., 2] - colours[..., 0]
    assert (blue_over_red[numbers < -0.1] > 0).all() and (blue_over_red[numbers > 0.1] < 0).all()
    order = numbers.flatten().argsort()
    positive = order[numbers.flatten()[order] > 0]
    assert (colours.flatten(0, 1)[positive, 2].diff() <= 0).all()  # the larger a positive number, the less blue
    low, high = torch.tensor([11, 99, 176]), torch.tensor([190, 82, 0])
    assert (colours[numbers >= most] == high).all() and (colours[numbers <= -most] == low).all()
    assert (colours[numbers.abs() < 0.97 * most] != high).any(-1).all()
    assert texts(page, ".legend") == [f"≤ {-most:.3g}≥ {most:.3g}"]
    assert [bar(page)[i] for i in (0, 4, 8)] == [low.tolist(), [255] * 3, high.tolist()]
    tile = pixels(page, f'[aria-label^="{name},"] canvas', torch.empty(13, 58))
    assert (tile == colours[:, (torch.arange(58) * 384 / 58).long()]).all()


def test_the_mask_has_one_row_for_all(opened):
    page = opened("mask_additive;token=8")
    assert page.text_content(".rows") == "all" and page.text_content("#number") == "0 (all → [CLS])"
    assert page.text_content(".legend") == "All its numbers are 0."


def test_a_newcomer_is_told_how_to_read_it(opened):
    page = opened()
    assert page.is_visible("#help ul")
    page.click("#help summary")
    assert page.is_hidden("#help ul")
    page.click("#next")
    page.reload()
    page.wait_for_selector("[aria-current]")
    assert page.is_hidden("#help ul") and page.text_content("#count").startswith("Step 2 ")


def test_on_a_phone_the_next_step_stays_at_hand(opened):
    page = opened()
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#table summary").scroll_into_view_if_needed()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.locator("#next").bounding_box()["y"] >= 0


def test_the_table_has_the_row(opened, trace, tokens):
    page = opened("encoder.layer.0.output.LayerNorm")
    choose(page, 4, 0)
    page.click("#table summary")
    page.wait_for_selector("#numbers td")
    numbers = [np.float32(text) for text in page.locator("#numbers td").all_text_contents()]
    assert numbers == trace["encoder.layer.0.output.LayerNorm"][0, 4].tolist()
    assert texts(page, "#numbers th[scope=row]") == [str(i) for i in range(384)]
    page.evaluate(f"location.hash = '{PROBS};head=11;token=8'")
    page.wait_for_selector("#lines")
    assert texts(page, "#numbers th[scope=row]") == tokens
    assert [np.float32(text) for text in texts(page, "#numbers td")] == trace[PROBS][0, 11, 8].tolist()
    assert page.text_content("#table summary") == "All 13 numbers of the row “it”, head 11, as a table"


def test_by_keyboard_alone(opened):
    page = opened(f"{PROBS};head=2;token=8")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the open tensor"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "panel"
    page.wait_for_url(f"**{PROBS};head=2;token=8")
    assert page.is_checked("#head-2") and page.is_checked("#token-9")
    step = page.text_content("#count")
    for place in ("#row", "#column", ".scroll", "#token-9", "#theme"):
        page.focus(place)
        page.keyboard.press("Control+ArrowRight" if place == "#theme" else "ArrowLeft")
        assert page.text_content("#count") == step
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#slider") == "96" and page.text_content("#count") == "Step 96 of 106"
    page.keyboard.press("ArrowLeft")
    page.click("label[for=head-2]")
    page.focus("#head-2")
    page.keyboard.press("ArrowRight")
    assert page.is_checked("#head-3") and page.text_content("#name") == "attention.self.probs"
    page.focus(f'[aria-label^="{PROBS},"]')
    page.keyboard.press("ArrowRight")
    assert "attention.self.context" in page.evaluate("document.activeElement.getAttribute('aria-label')")


@pytest.mark.parametrize(
    "width, scheme, address",
    [
        (390, "light", f"{PROBS};head=3;token=8"),
        (390, "dark", f"{PROBS};head=3;token=8"),
        (1440, "light", f"{PROBS};head=3;token=8"),
        (1440, "dark", f"{PROBS};head=3;token=8"),
        (390, "dark", DENSE),
        (1440, "light", ""),
    ],
)
def test_accessible_in_every_look(opened, page, width, scheme, address):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    opened(address)
    page.click("#table summary")
    assert not chromium.violations(page)
    assert not chromium.too_wide(page)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 150) == (scheme == "dark")


def test_the_look_can_be_changed(opened):
    page = opened()
    colour, numbers = "getComputedStyle(document.body).backgroundColor", torch.empty(13, 384)
    before = page.evaluate(colour)
    assert page.text_content("#theme") == "Dark" and pixels(page, ".heat canvas", numbers).min(-1).values.max() > 240
    page.click("#theme")
    assert page.evaluate(colour) != before and page.text_content("#theme") == "Light"
    for canvas, columns in ((".heat canvas", 384), (".tile[aria-current] canvas", 58)):
        brightest = pixels(page, canvas, torch.empty(13, columns)).max(-1).values
        assert brightest.min() < 40  # what is close to 0 is as dark as the page
    page.click("#theme")
    assert page.evaluate(colour) == before


@pytest.mark.parametrize(
    ("address", "leads_to"),
    [
        ("%E0%A4%A", "embeddings.word_embeddings"),
        ("nothing;head=3;token=4", "embeddings.word_embeddings"),
        (f"{PROBS};head=-2;token=none", f"{PROBS};head=0"),
        (f"{PROBS};head=99;token=99", f"{PROBS};head=11"),
        (f"{PROBS};head=3;token=-4", f"{PROBS};head=3"),
    ],
)
def test_an_address_with_a_slip(opened, address, leads_to):
    page = opened(address)
    assert page.url.endswith(f"#{leads_to}") and page.is_checked("#token-0")


def test_a_text_is_only_a_text(page, tokenizer, tmp_path):
    evil = "</script><img src=x onerror=alert(1)> @@NUMBERS@@ <!-- &amp; \u2028 水"
    small = lively_(BertModel(BertConfig(**SIZES | {"vocab_size": 30522, "max_position_embeddings": 64}))).eval()
    page.goto(write_html(small, tokenizer, evil, tmp_path / "evil.html").as_uri())
    page.wait_for_selector("[aria-current]")
    assert page.text_content("#title") == evil and page.locator("img").count() == 0
    assert page.title().split() == f"{evil} – through BERT".split()
    assert page.text_content("#difference") == "not compared"


def test_another_size_of_model(page, tokenizer, tmp_path):
    """A decoder, whose mask is not 0 everywhere, beside one with another pooler."""
    small = lively_(BertModel(BertConfig(**SIZES | {"vocab_size": 30522, "is_decoder": True}))).eval()
    other = copy.deepcopy(small)
    with torch.no_grad():
        other.pooler.dense.bias += 1
        expected = record(small, **tokenizer("A small one.", return_tensors="pt"))
    page.goto(write_html(small, tokenizer, "A small one.", tmp_path / "small.html", other).as_uri())
    page.wait_for_selector("[aria-current]")
    assert all_numbers(page) == {name: tensor.numpy().tobytes() for name, tensor in expected.items()}
    assert page.text_content("#difference") == "equal, bit for bit"
    page.fill("#slider", str(len(expected)))
    assert page.text_content("#difference").startswith("largest difference ")
    assert shown_statistics(page) == statistics(expected["pooler.activation"])  # 30 numbers: a mean over 29 would show


def test_one_head_and_distances(page, tokenizer, tmp_path):
    sizes = SIZES | {"vocab_size": 30522, "num_attention_heads": 1, "position_embedding_type": "relative_key"}
    small, name = lively_(BertModel(BertConfig(**sizes))).eval(), "encoder.layer.0.attention.self.distance_embedding"
    with torch.no_grad():
        expected = record(small, **tokenizer("A small one.", return_tensors="pt"))
    page.goto(f"{write_html(small, tokenizer, 'A small one.', tmp_path / 'one.html').as_uri()}#{name};head=2")
    page.wait_for_selector("[aria-current]")
    assert page.text_content("#shape") == "query 6 × key 6 × head_dim 30"
    assert page.text_content("#heads legend") == "Query" and page.locator("#heads label").count() == 6
    choose(page, 4, 7)
    assert shown(page) == expected[name][2, 4, 7].item() and texts(page, ".rows div")[3] == "one"
    page.evaluate(f"location.hash = '{name.replace('distance_embedding', 'probs')}'")
    page.wait_for_selector("#lines")
    assert page.locator("#heads label").count() == 0


def test_sixteen_tokens_take_less_than_three_megabytes(model, tokenizer, tmp_path):
    assert len(tokenizer(SIXTEEN)["input_ids"]) == 16
    assert write_html(model, tokenizer, SIXTEEN, tmp_path / "sixteen.html").stat().st_size < 3_000_000


def test_no_page_without_a_folder_and_no_half_page(model, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError):
        write_html(model, tokenizer, CAT, tmp_path / "no" / "page.html")
    (tmp_path / "page.html").write_text("older")
    with pytest.raises(ValueError, match="expected 3 to 64"):
        write_html(model, tokenizer, "", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "older" and len([*tmp_path.iterdir()]) == 1


def test_numbers_that_are_no_numbers_are_stored():
    """Infinite and missing numbers, zeros with a sign: no sum would give them back."""
    odd = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45]], np.float32)
    assert recipe(odd, [odd], 2.0) == "stored" and recipe(odd, [odd, odd], 2.0) == "stored"
    assert "<" not in pack([odd])


def test_the_prepared_pages_are_those_of_the_site(site, page):
    for name, text in explorers.SENTENCES.items():
        page.goto((site / "explorer" / f"{name}.html").as_uri())
        page.wait_for_selector("[aria-current]")
        assert page.text_content("#title") == text and len(page.evaluate("minibert.names")) == 106
        link = page.get_attribute("#place a", "href")
        assert (site / "explorer" / link).resolve().exists() and page.is_visible("#home")
