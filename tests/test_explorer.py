"""The explorer in a real browser: every tensor and every number of the record, by keyboard, by mouse, on a phone."""

import base64
import re
import sys
from pathlib import Path

import chromium
import numpy as np
import pytest
import torch

from minibert.check import SIZES, lively_
from minibert.config import BertConfig
from minibert.explorer import pack, recipe, write_html
from minibert.model import BertModel
from minibert.tokenizer import BertTokenizer
from minibert.trace import record
from minibert.walk import load_reference, minilm_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs" / "_ext"))
import explorers  # noqa: E402

CAT = explorers.SENTENCES["cat"]
SIXTEEN = "The cat sat on the mat because it was tired, she said."
PROBS = "encoder.layer.5.attention.self.probs"
DENSE = "encoder.layer.1.intermediate.dense"


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


def matrices(tensor):
    """Heads, rows and columns."""
    return tensor.reshape(tensor.shape[1] if tensor.ndim == 4 else 1, -1, tensor.shape[-1])


def test_every_number_is_the_recorded_one(opened, trace):
    numbers = all_numbers(opened())
    assert list(numbers) == list(trace)
    assert [name for name, tensor in trace.items() if numbers[name] != tensor.numpy().tobytes()] == []


def test_the_arrows_step_through_all_tensors(opened, trace):
    page, random = opened(), np.random.default_rng(1)
    for step, (name, tensor) in enumerate(trace.items(), 1):
        assert page.text_content("#count") == f"Step {step} of {len(trace)}"
        assert page.get_attribute("[aria-current]", "aria-label").startswith(f"{name}, ")
        assert name in page.text_content("#live") and page.text_content("#says") and page.text_content("#formula")
        assert [int(n) for n in re.findall(r" (\d+)", page.text_content("#shape"))] == [*tensor.shape]
        assert page.text_content("#difference") == "equal, bit for bit"
        assert page.locator("#sources button").all_text_contents() == [*trace.sources[name]]
        heads = matrices(tensor)
        head, row, column = (int(random.integers(n)) for n in heads.shape)
        if len(heads) > 1:
            page.click(f"label[for=head-{head}]")
        choose(page, row, column)
        assert shown(page) == heads[head, row, column].item()
        page.focus("#panel")
        page.keyboard.press("ArrowRight")
    assert page.text_content("#count") == f"Step {len(trace)} of {len(trace)}" and page.is_disabled("#next")
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#name") == "pooler.dense"


def test_buttons_slider_tiles_and_layers_lead_to_the_same_place(opened, trace):
    page, names = opened(), [*trace]
    page.click("#next")
    assert page.url.endswith(f"#{names[1]}")
    page.click("#back")
    assert page.is_disabled("#back")
    page.fill("#slider", "47")
    assert page.url.endswith(f"#{names[46]};head=0")
    page.click(f'[aria-label^="{PROBS},"]')
    assert page.text_content("#stage").startswith("Layer 5 · attention")
    page.locator("#stage label", has_text="3").click()
    assert page.url.endswith("#encoder.layer.3.attention.self.probs;head=0")
    page.click("#users button")
    assert page.text_content("#name") == "attention.self.context"


def test_a_head_is_drawn_as_a_matrix_and_as_lines(opened, trace):
    page, probs = opened(f"{PROBS};head=11"), trace[PROBS][0, 11]
    assert page.locator("#lines path").count() == int((probs >= 0.01).sum())
    page.locator("#tokens label", has_text=re.compile("^it$")).click()
    assert page.locator("#lines path").count() == int((probs[8] >= 0.01).sum())
    assert page.url.endswith(";head=11;token=8") and page.text_content(".rows .on") == "it"
    choose(page, 8, 2)
    assert page.text_content("#number").endswith("(it → cat)") and round(100 * float(shown(page))) == 71
    page.locator("#lines text", has_text="tired").first.click()
    assert page.locator("#lines path").count() == int((probs[10] >= 0.01).sum())


@pytest.mark.parametrize("name", [PROBS, DENSE, "encoder.layer.1.attention.self.context"])
def test_pointing_reads_the_number_under_the_pointer(opened, page, trace, name):
    page.set_viewport_size({"width": 4200, "height": 1000})  # wide enough to point at 1,536 columns without scrolling
    page, heads = opened(name), matrices(trace[name])
    canvas = page.locator(".heat canvas")
    box = canvas.bounding_box()
    for row, column in [(0, 0), (7, 5), (12, 11)]:
        width, height = box["width"] / heads.shape[2], box["height"] / heads.shape[1]
        canvas.hover(position={"x": (column + 0.5) * width, "y": (row + 0.5) * height})
        assert shown(page) == heads[0, row, column].item()


def test_colours_tell_the_sign_and_the_size(opened, trace):
    name = "encoder.layer.2.output.sum"
    page, numbers = opened(name), trace[name][0]
    pixels = page.evaluate("""() => {
        const canvas = document.querySelector(".heat canvas"), {width, height} = canvas;
        return Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data);
    }""")
    pixels = torch.tensor(pixels).view(*numbers.shape, 4)
    blue_over_red = pixels[..., 2] - pixels[..., 0]
    assert (blue_over_red[numbers < -0.1] > 0).all() and (blue_over_red[numbers > 0.1] < 0).all()
    order = numbers.flatten().argsort()
    positive = order[numbers.flatten()[order] > 0]
    assert (pixels.flatten(0, 1)[positive, 2].diff() <= 0).all()  # the larger a positive number, the less blue


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
    page.mouse.wheel(0, 4000)
    page.wait_for_function("scrollY + innerHeight >= document.body.scrollHeight - 1")
    assert page.locator("#next").bounding_box()["y"] >= 0


def test_the_table_has_the_row(opened, trace):
    page = opened("encoder.layer.0.output.LayerNorm")
    choose(page, 4, 0)
    page.click("#table summary")
    numbers = [np.float32(text) for text in page.locator("#numbers td").all_text_contents()]
    assert numbers == trace["encoder.layer.0.output.LayerNorm"][0, 4].tolist()


def test_by_keyboard_alone(opened):
    page = opened(f"{PROBS};head=2")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the open tensor"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "panel"
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
        (1440, "light", "mask_additive"),
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
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_a_text_is_only_a_text(page, tokenizer, tmp_path):
    evil = "</script><img src=x onerror=alert(1)> @@NUMBERS@@ <!-- &amp; \u2028 水"
    small = lively_(BertModel(BertConfig(**SIZES | {"vocab_size": 30522, "max_position_embeddings": 64}))).eval()
    page.goto(write_html(small, tokenizer, evil, tmp_path / "evil.html").as_uri())
    page.wait_for_selector("[aria-current]")
    assert page.text_content("#title") == evil and page.locator("img").count() == 0
    assert page.title().split() == f"{evil} – through BERT".split()
    assert page.text_content("#difference") == "not compared"


def test_another_size_of_model(page, tokenizer, tmp_path):
    small = lively_(BertModel(BertConfig(**SIZES | {"vocab_size": 30522, "max_position_embeddings": 64}))).eval()
    with torch.no_grad():
        expected = record(small, **tokenizer("A small one.", return_tensors="pt"))
    page.goto(write_html(small, tokenizer, "A small one.", tmp_path / "small.html").as_uri())
    page.wait_for_selector("[aria-current]")
    assert all_numbers(page) == {name: tensor.numpy().tobytes() for name, tensor in expected.items()}


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
