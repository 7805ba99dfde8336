"""Saving: whatever happens, a folder holds exactly the old or exactly the new checkpoint, and all else stays."""

import json
import os
import random
import resource
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
import torch

from minibert import saving
from minibert.check import lively_
from minibert.config import BertConfig
from minibert.files import CheckpointError
from minibert.model import BertModel

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 1200)) // 20  # kills; a thousand with the default of `make fuzz`
SEED = int(os.environ.get("FUZZ_SEED", 1))
SMALL = {
    **{"vocab_size": 11, "hidden_size": 12, "num_hidden_layers": 2, "intermediate_size": 7},
    **{"max_position_embeddings": 5, "type_vocab_size": 2},
}
# The number of heads is in no tensor's shape: weights of one under the config of the other would load.
OLD = lively_(BertModel(BertConfig(**SMALL, num_attention_heads=3)), seed=1).eval()
NEW = lively_(BertModel(BertConfig(**SMALL, num_attention_heads=4)), seed=2).eval()
TOO_OFTEN = ("builtins.id", "object.__setattr__")  # audited, but nothing that is asked of the system


# --- What is in a folder ---


def content(path):
    """What there is at a path: bytes, the target of a link, the names and contents of a folder; None for nothing."""
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return {item.name: content(item) for item in path.iterdir()}
    return path.read_bytes() if path.exists() else None


def leftovers(folder):
    return sorted(path.name for path in folder.resolve().parent.iterdir() if ".saving-" in path.name)


def is_model(found, model):
    """Whether it is this model: every weight, and every field of the config that is stored."""
    theirs, ours = found.state_dict(), model.state_dict()
    same = theirs.keys() == ours.keys() and all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    added = {"architectures": None, "torch_dtype": None}
    return same and found.config.to_dict() | added == model.config.to_dict() | added


def which(found):
    """Old, new or a mix."""
    return "old" if is_model(found, OLD) else "new" if is_model(found, NEW) else "mix"


# --- What a save may meet: each makes a place, gives the folder to save to, and says how large a shard may be ---


def single(root):
    OLD.save_pretrained(root / "model")
    return root / "model", 2000


def shards(root):
    OLD.save_pretrained(root / "model", max_shard_size=2000)
    return root / "model", 6000


def shards_and_one_file(root):
    OLD.save_pretrained(root / "model", max_shard_size=2000)
    return root / "model", "5GB"


def pickle(root):
    (root / "model").mkdir()
    OLD.config.to_json_file(root / "model" / "config.json")
    torch.save(OLD.state_dict(), root / "model" / "pytorch_model.bin")
    return root / "model", "5GB"


def nothing(root):
    return root / "not" / "there" / "model", 6000


def much_else(root):
    OLD.save_pretrained(root / "model", max_shard_size=6000)
    for name in ("vocab.txt", "run/epoch 1/model.safetensors", "run/log", "model.safetensors.md5"):
        path = root / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    (root / "model" / "empty").mkdir()
    (root / "model" / "latest").symlink_to("run/log")
    (root / "model" / "nowhere").symlink_to("not there")
    os.mkfifo(root / "model" / "pipe")
    return root / "model", 2000


def link(root):
    OLD.save_pretrained(root / "real")
    (root / "real" / "vocab.txt").write_text("[PAD]")
    (root / "model").symlink_to("real")
    return root / "model", 6000


PLACES = {
    "a file, then shards": single,
    "shards, then fewer": shards,
    "shards, then a file": shards_and_one_file,
    "a pickle": pickle,
    "no folder yet": nothing,
    "much else": much_else,
    "a link to a folder": link,
}


def content_of_all(path):
    """As `content`, of a place with pipes in it, which nobody can read to the end."""
    if path.is_fifo():
        return "pipe"
    if path.is_dir() and not path.is_symlink():
        return {item.name: content_of_all(item) for item in path.iterdir() if ".saving-" not in item.name}
    return content(path)


class Place:
    """A place with an old checkpoint, what it holds before and after an undisturbed save, and a way back."""

    def __init__(self, make, root):
        self.pristine, self.root = root / "pristine", root / "place"
        self.pristine.mkdir()
        folder, self.size = make(self.pristine)
        self.folder = self.root / folder.relative_to(self.pristine)
        self.reset()
        self.old = content_of_all(self.root)
        start = time.monotonic()
        self.save()
        self.seconds = time.monotonic() - start
        self.new = content_of_all(self.root)
        assert which(BertModel.from_pretrained(self.folder)) == "new" and self.old != self.new
        self.reset()

    def reset(self):
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root, symlinks=True, copy_function=lambda *paths: (
            os.mkfifo(paths[1]) if Path(paths[0]).is_fifo() else shutil.copy2(*paths, follow_symlinks=False)
        ))

    def save(self):
        NEW.save_pretrained(self.folder, max_shard_size=self.size)

    def check(self):
        """Old or new, nothing in between; then the next save, and nothing is left behind."""
        found = content_of_all(self.root)
        is_old = found == self.old or self.old == {} and content_of_all(self.folder) is None  # folders around it may be
        assert is_old or found == self.new
        if not is_old or list(self.root.rglob("*.saving-*")):
            with mock.patch("os.fsync"):
                self.save()
            assert content_of_all(self.root) == self.new
            assert not list(self.root.rglob("*.saving-*"))
            self.reset()
        return "old" if is_old else "new"


@pytest.fixture
def place(request, tmp_path):
    return Place(PLACES[request.param], tmp_path)


every_place = pytest.mark.parametrize("place", PLACES, indirect=True)
three_places = pytest.mark.parametrize(
    "place", ["much else", "a pickle", "no folder yet"] if EXAMPLES <= 60 else PLACES, indirect=True
)


def in_child(action):
    """Run the action in a process of its own: its exit status. An error there is printed, and gives 1."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def at_event(number, act):
    """From now on call `act` at the audit event of this number, counted from 0; for a process that will end."""
    count = -1

    def hook(event, _):
        nonlocal count
        if event not in TOO_OFTEN:
            count += 1
            if count == number:
                act()

    sys.addaudithook(hook)


# --- Killed ---


@three_places
def test_killed_at_every_single_event(place):
    seen = []

    def save_until(number):
        at_event(number, lambda: signal.raise_signal(signal.SIGKILL))
        with mock.patch("os.fsync"):  # no power fails here, and it takes most of the time
            place.save()

    while (status := in_child(lambda: save_until(len(seen)))) == signal.SIGKILL:
        seen.append(place.check())
    assert status == 0 and len(seen) > 20
    assert seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}  # first the old one, then the new


def test_killed_at_any_time(tmp_path):
    """`make fuzz` kills many more."""
    numbers, places = random.Random(SEED), []
    for number, make in enumerate(PLACES.values()):
        root = tmp_path / str(number)
        root.mkdir()
        places.append(Place(make, root))
    seen = []
    for _ in range(EXAMPLES):
        place = numbers.choice(places)
        begun, begins = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(begins, b"!")
            place.save()
            os._exit(0)
        os.read(begun, 1)
        time.sleep(numbers.random() * 1.3 * place.seconds)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(begun), os.close(begins)
        seen.append((place.check(), "killed" if status else "finished"))
        place.reset()
    counts = {what: seen.count(what) for what in sorted(set(seen))}
    print(f"{len(seen)} saves: {counts}")
    assert counts["old", "killed"] > EXAMPLES // 10 and ("old", "finished") not in counts


# --- Errors ---


def error_of(action):
    """What the action raises in a process of its own, as text; empty if nothing."""
    read, write = os.pipe()

    def report():
        try:
            action()
        except Exception as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())

    status = in_child(report)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().decode()
    assert status == 0
    return text


@pytest.mark.parametrize("place", ["shards, then fewer", "no folder yet"], indirect=True)
def test_an_error_at_every_single_event(place):
    def fail():
        raise OSError(28, "No space left on device")

    def save_with_failure(number, happened):
        at_event(number, lambda: (os.write(happened, b"!"), fail()))
        with mock.patch("os.fsync"):
            place.save()

    for number in range(1000):
        read, write = os.pipe()
        error = error_of(lambda number=number, write=write: save_with_failure(number, write))
        os.close(write)
        with open(read, "rb") as pipe:
            if not pipe.read():
                break
        assert error == "" or "No space left on device" in error or error.startswith(("OSError", "FileNotFoundError"))
        state = place.check()
        assert error or state == "new", number
    assert number > 20


@every_place
@pytest.mark.parametrize("step", ["os.fsync", "minibert.saving.exchange", "os.rename", "minibert.saving.save_file"])
def test_an_error_in_each_step(place, step):
    """At the first, the second, … call of it: old or new, no leftovers, and the caller hears of it."""
    module, name = step.rsplit(".", 1)
    real = getattr(sys.modules[module], name)
    for number in range(100):
        calls = 0

        def sometimes(*arguments, number=number, **options):
            nonlocal calls
            calls += 1
            if calls - 1 == number:
                raise OSError(5, "Input/output error")
            return real(*arguments, **options)

        with mock.patch(step, sometimes):
            try:
                place.save()
            except OSError as error:
                assert "Input/output error" in str(error)
                assert not list(place.root.rglob("*.saving-*"))
                assert place.check() in (["old"] if step != "os.fsync" else ["old", "new"])
            else:
                break
    uses = {"os.rename": place.old == {}, "minibert.saving.exchange": place.old != {}}
    assert number > 0 or not uses.get(step, True)


@every_place
def test_a_full_disk(place):
    """No file may grow beyond a limit: no save succeeds until there is room for all."""
    errors = []

    def save(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        place.save()

    for limit in [0, 1, 300, 900, 1900, 2500, 4000, 10**6]:
        errors.append(error_of(lambda limit=limit: save(limit)))
        assert not list(place.root.rglob("*.saving-*"))
        assert place.check() == ("old" if errors[-1] else "new")
    assert all(error.startswith("OSError: ") for error in errors[:4]) and errors[-1] == ""


@pytest.mark.parametrize("place", ["much else", "a file, then shards"], indirect=True)
def test_what_is_found_out_before_anything_is_written(place):
    before = content_of_all(place.root)

    def refused(error, says, model=NEW, folder=place.folder, **options):
        with pytest.raises(error) as raised:
            model.save_pretrained(folder, **options)
        assert says in str(raised.value)
        assert content_of_all(place.root) == before and not leftovers(place.folder)

    odd = BertModel(BertConfig(**SMALL, num_attention_heads=3, hidden_act=torch.tanh))
    refused(TypeError, "hidden_act is <built-in method tanh", odd)
    odd = lively_(BertModel(BertConfig(**SMALL, num_attention_heads=3)))
    odd.config.note = {1, 2}
    refused(TypeError, "note is {1, 2}", odd)
    with torch.device("meta"):
        odd = BertModel(BertConfig(**SMALL, num_attention_heads=3))
    refused(ValueError, "embeddings.word_embeddings.weight is \"on the device 'meta'\"", odd)
    refused(ValueError, "max_shard_size is '5 apples'", max_shard_size="5 apples")
    refused(NotADirectoryError, "config.json is a file", folder=place.folder / "config.json")
    refused(FileExistsError, "config.json", folder=place.folder / "config.json" / "model")


# --- Side by side ---


def save_for(seconds, model, folder, **options):
    end = time.monotonic() + seconds
    with mock.patch("os.fsync"):
        while time.monotonic() < end:
            model.save_pretrained(folder, **options)


def load_while(goes_on, folder):
    """Load again and again: how often it was which model, and how often the folder had changed meanwhile."""
    seen = Counter()
    while goes_on():
        try:
            seen[which(BertModel.from_pretrained(folder))] += 1
        except (CheckpointError, FileNotFoundError) as error:
            assert "exchanged for another folder" in str(error)
            seen["exchanged"] += 1
    assert "mix" not in seen
    return seen


def error_in(action):
    """Whether the action fails; the error is printed."""
    try:
        action()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return True
    return False


def test_two_processes_save_while_others_load(tmp_path):
    folder, seconds = tmp_path / "model", 3
    much_else(tmp_path)
    others = {name: item for name, item in content_of_all(folder).items() if not saving.REPLACED.fullmatch(name)}
    savers = []
    for model, options in ((OLD, {"max_shard_size": 3000}), (NEW, {})):
        savers.append(os.fork())
        if not savers[-1]:
            os._exit(error_in(lambda model=model, options=options: save_for(seconds, model, folder, **options)))
    end = time.monotonic() + seconds
    seen = load_while(lambda: time.monotonic() < end, folder)
    assert [os.waitpid(child, 0)[1] for child in savers] == [0, 0]
    print(seen)
    assert seen["old"] and seen["new"]
    found = content_of_all(folder)
    assert {name: found.get(name) for name in others} == others
    assert not leftovers(folder)


def test_threads_save_while_others_load(tmp_path):
    folder, failed = tmp_path / "model", []
    OLD.save_pretrained(folder)

    def save(model, **options):
        failed.append(error_in(lambda: [model.save_pretrained(folder, **options) for _ in range(15)]))

    threads = [threading.Thread(target=save, args=[OLD]), threading.Thread(target=save, args=[NEW])]
    for thread in threads:
        thread.start()
    seen = load_while(lambda: any(thread.is_alive() for thread in threads), folder)
    print(seen)
    assert failed == [False, False] and seen["old"] + seen["new"]
    assert not leftovers(folder)


# --- Rights, links, places ---


def as_somebody():
    """Go on as a user who may not do everything, where we are root."""
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)


@pytest.fixture
def shared():
    """A folder of somebody who is not root, at a place that everybody may go to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        yield Path(folder)
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o755)


def save_as_somebody(model, folder, **options):
    return error_of(lambda: (as_somebody(), model.save_pretrained(folder, **options)))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_rights_are_those_of_every_other_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        OLD.save_pretrained(tmp_path / "model", max_shard_size=2000)
        assert {mode(path) for path in (tmp_path / "model").iterdir()} == {0o666 & ~umask}
        assert mode(tmp_path / "model") == 0o777 & ~umask
        os.chmod(tmp_path / "model", 0o2750)
        NEW.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    assert mode(tmp_path / "model") == 0o2750 and mode(tmp_path / "model" / "model.safetensors") == 0o666 & ~umask


def test_nobody_looks_in_meanwhile(tmp_path):
    OLD.save_pretrained(tmp_path / "model")
    os.chmod(tmp_path / "model", 0o700)
    real, seen = saving.save_file, []

    def look(tensors, path, notes):
        [room] = tmp_path.glob(".model.saving-*")
        seen.append(mode(room))
        real(tensors, path, notes)

    with mock.patch.object(saving, "save_file", look):
        NEW.save_pretrained(tmp_path / "model", max_shard_size=2000)
    assert set(seen) == {0o700} and mode(tmp_path / "model") == 0o700


def test_the_owner_stays(shared):
    assert save_as_somebody(OLD, shared / "model") == ""
    NEW.save_pretrained(shared / "model")  # as root, where we are
    assert (shared / "model").stat().st_uid == shared.stat().st_uid
    assert save_as_somebody(OLD, shared / "model") == ""
    assert which(BertModel.from_pretrained(shared / "model")) == "old"


def test_a_folder_that_may_not_be_written_to(shared):
    assert save_as_somebody(OLD, shared / "model") == ""
    os.chmod(shared / "model", 0o555)
    before = content(shared)
    error = save_as_somebody(NEW, shared / "model")
    assert "could not be exchanged for the new checkpoint (Permission denied)" in error
    assert content(shared) == before and mode(shared / "model") == 0o555


def test_a_folder_beside_which_there_can_be_no_other(shared):
    assert save_as_somebody(OLD, shared / "model") == ""
    os.chmod(shared, 0o555)
    before = content(shared)
    for folder in (shared / "model", shared / "other"):
        error = save_as_somebody(NEW, folder)
        assert f"no folder can be made in {shared} (Permission denied)" in error and "save to a folder inside" in error
    assert content(shared) == before
    assert save_as_somebody(NEW, shared / "model" / "inside") == ""
    assert which(BertModel.from_pretrained(shared / "model" / "inside")) == "new"


def test_a_folder_inside_that_is_read_only(shared):
    def prepare():
        as_somebody()
        OLD.save_pretrained(shared / "model")
        (shared / "model" / "run" / "deep").mkdir(parents=True)
        (shared / "model" / "run" / "deep" / "log").write_text("loss 0.7")
        (shared / "model" / "run" / "secret").write_text("none")
        os.chmod(shared / "model" / "run" / "secret", 0)
        os.chmod(shared / "model" / "run" / "deep", 0o555)
        os.chmod(shared / "model" / "run", 0o555)

    assert error_of(prepare) == "" and save_as_somebody(NEW, shared / "model") == ""
    assert which(BertModel.from_pretrained(shared / "model")) == "new"
    assert content(shared / "model" / "run") == {"deep": {"log": b"loss 0.7"}, "secret": b"none"}
    assert mode(shared / "model" / "run") == 0o555 and not leftovers(shared / "model")


def test_what_another_user_left_behind(shared):
    forgotten = shared / f".model.saving-{'0' * 16}"
    forgotten.mkdir(mode=0o700)
    if os.geteuid() == 0:  # nobody else's, then: it is removed
        assert save_as_somebody(OLD, shared / "model") == ""
        assert forgotten.exists()
    OLD.save_pretrained(shared / "model")
    assert not forgotten.exists()


def test_only_what_savers_make_is_cleared(tmp_path):
    (tmp_path / ".model.saving-the-whales").mkdir()
    (tmp_path / ".model[1].saving-0123456789abcdef").mkdir()
    (tmp_path / f".model.saving-{'1' * 16}").symlink_to(tmp_path)
    (tmp_path / f".model.saving-{'2' * 16}").write_text("a file")
    before = content(tmp_path)
    OLD.save_pretrained(tmp_path / "model")
    assert {name: item for name, item in content(tmp_path).items() if name != "model"} == before


@pytest.mark.parametrize("name", ["model[1]", "*", "mo del\n", "möd el", "-rf", "x" * 200])
def test_any_name(tmp_path, name):
    for model in (OLD, NEW):
        model.save_pretrained(tmp_path / name)
        assert is_model(BertModel.from_pretrained(tmp_path / name), model)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_file_of_the_old_checkpoint_is_written_to(tmp_path):
    """Not through a link of either kind, nor where somebody has it open or mapped into memory."""
    folder = tmp_path / "model"
    OLD.save_pretrained(folder)
    before = (folder / "model.safetensors").read_bytes()
    os.link(folder / "model.safetensors", tmp_path / "kept")
    mapped = BertModel.from_pretrained(folder, mmap=True)
    NEW.save_pretrained(folder)
    assert (tmp_path / "kept").read_bytes() == before and is_model(mapped, OLD)
    for path in folder.iterdir():
        assert path.stat().st_nlink == 1
    os.replace(tmp_path / "kept", folder / "kept")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("kept")
    (folder / "config.json").rename(tmp_path / "config")
    (folder / "config.json").symlink_to("../config")
    config = (tmp_path / "config").read_bytes()
    OLD.save_pretrained(folder, max_shard_size=2000)
    assert (folder / "kept").read_bytes() == before and (tmp_path / "config").read_bytes() == config
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert which(BertModel.from_pretrained(folder)) == "old"


def test_files_of_the_user_are_carried_over_without_a_copy(tmp_path):
    OLD.save_pretrained(tmp_path / "model")
    log = open(tmp_path / "model" / "log", "w")
    number = os.fstat(log.fileno()).st_ino
    log.write("before, ")
    NEW.save_pretrained(tmp_path / "model")
    log.write("after")
    log.close()
    assert (tmp_path / "model" / "log").stat().st_ino == number
    assert (tmp_path / "model" / "log").read_text() == "before, after"


@every_place
def test_where_there_are_no_hard_links(place):
    with mock.patch("os.link", side_effect=PermissionError(1, "Operation not permitted")):
        if list(place.root.rglob("pipe")):
            with pytest.raises(OSError, match="is a named pipe"):
                place.save()
            assert content_of_all(place.root) == place.old
            return
        place.save()
    assert content_of_all(place.root) == place.new


@pytest.mark.parametrize("inside", [".", "run/deep"])
def test_the_working_directory_is_in_the_folder(tmp_path, monkeypatch, inside):
    OLD.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "run" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "run" / "deep" / "log").write_text("loss 0.7")
    monkeypatch.chdir(tmp_path / "model" / inside)
    here = os.getcwd()
    NEW.save_pretrained("." if inside == "." else "../..")
    assert os.getcwd() == here and os.path.samefile(".", here)
    assert which(BertModel.from_pretrained(tmp_path / "model")) == "new"
    assert Path("run/deep/log" if inside == "." else "log").read_text() == "loss 0.7"


def test_the_working_directory_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for model in (OLD, NEW):
        model.save_pretrained(tmp_path / "model")
    assert which(BertModel.from_pretrained(tmp_path / "model")) == "new"


def test_weights_that_share_memory(tmp_path):
    model = lively_(BertModel(BertConfig(**SMALL, num_attention_heads=3)))
    layers = model.encoder.layer
    both = torch.cat([layers[0].output.dense.weight, layers[1].output.dense.weight]).detach()
    for layer, part in zip(layers, both.split(12), strict=True):
        layer.output.dense.weight = torch.nn.Parameter(part)
    layers[0].intermediate.dense.weight = torch.nn.Parameter(layers[0].intermediate.dense.weight.detach().T.clone().T)
    model.save_pretrained(tmp_path / "model")
    assert is_model(BertModel.from_pretrained(tmp_path / "model"), model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_type(tmp_path, dtype):
    model = lively_(BertModel(BertConfig(**SMALL, num_attention_heads=3))).to(dtype)
    model.save_pretrained(tmp_path / "model", max_shard_size=2000)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["torch_dtype"] == str(dtype)[6:]
    assert is_model(BertModel.from_pretrained(tmp_path / "model", dtype="auto"), model)
