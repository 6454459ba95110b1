import copy
import pickle
import warnings
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save as to_bytes
from torch import nn

from robustsuite.core.errors import RequestError, UntrustedFileError
from robustsuite.models.checkpoint import load_into, save
from robustsuite.models.wrap import wrap


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_safetensors_round_trip_and_no_scratch_file(tmp_path):
    save(network(), tmp_path / "deep" / "a.safetensors")
    other = network(1)
    load_into(other, tmp_path / "deep" / "a.safetensors")
    assert equal(other, network())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.safetensors"]


def test_tied_weights_are_saved(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    save(tied, tmp_path / "a.safetensors")
    other = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    load_into(other, tmp_path / "a.safetensors")
    assert torch.equal(other[1].weight, tied[0].weight)


@pytest.mark.parametrize("header", [0x80, 0x4B50, 0x203C, 0x0A3C])
def test_a_header_as_long_as_another_format_begins_is_still_safetensors(tmp_path, header):
    """0x80 begins a pickle, 0x4b50 is "PK", 0x3c is "<"."""
    state = {"0.weight": torch.arange(3.0).reshape(1, 3), "0.bias": torch.ones(1)}
    bare = to_bytes(state)
    size = int.from_bytes(bare[:8], "little")
    padded = bare[8 : 8 + size].ljust(header)
    (tmp_path / "a.safetensors").write_bytes(header.to_bytes(8, "little") + padded + bare[8 + size :])
    other = nn.Sequential(nn.Linear(3, 1))
    load_into(other, tmp_path / "a.safetensors")
    assert torch.equal(other[0].weight, state["0.weight"])


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "_module.", "module.", "_orig_mod._module."])
def test_state_dicts_of_torch_save_in_every_dress(tmp_path, old, wrapper, prefix):
    state = {prefix + key: value for key, value in network().state_dict().items()}
    held = state if wrapper is None else {wrapper: state, "epoch": 3}
    torch.save(held, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    other = network(1)
    load_into(other, tmp_path / "a.pt")
    assert equal(other, network())


def test_a_prefix_that_is_the_models_own_stays(tmp_path):
    inner = nn.Module()
    inner.module = nn.Linear(2, 2)
    save(inner, tmp_path / "a.safetensors")
    other = nn.Module()
    other.module = nn.Linear(2, 2)
    load_into(other, tmp_path / "a.safetensors")
    assert equal(other, inner)


@pytest.mark.parametrize("form", ["pickle", "torch", "torch-old", "beside-weights", "old-protocol"])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_code_in_a_file_is_refused_and_never_runs(tmp_path, form, name):
    bomb, path = Bomb(tmp_path / "ran"), tmp_path / name
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif form == "old-protocol":
        path.write_bytes(pickle.dumps(bomb, protocol=0))
    else:
        held = {**network().state_dict(), "extra": bomb} if form == "beside-weights" else bomb
        torch.save(held, path, _use_new_zipfile_serialization=form != "torch-old")
    model = network(1)
    with pytest.raises(UntrustedFileError, match=name) as caught:
        load_into(model, path)
    assert "nothing in it was run" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert equal(model, network(1))


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path):
    torch.save(network(), tmp_path / "a.pt")
    with pytest.raises(UntrustedFileError, match=r"Sequential.*state_dict"):
        load_into(network(), tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\n <!DOCTYPE html><html>sign in</html>", "HTML page"),
        (b"", "empty"),
        (b"PK\x03\x04 torn", "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1", "neither safetensors nor"),
        (b"\x80\x02", "a.pt"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, told):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UntrustedFileError, match=told):
        load_into(network(), tmp_path / "a.pt")


@pytest.mark.parametrize("cut", [10, 100, -1])
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_torn_files_are_refused(tmp_path, cut, form):
    path = tmp_path / f"a.{form}"
    save(network(), path) if form == "safetensors" else torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UntrustedFileError):
        load_into(network(), path)


@pytest.mark.parametrize("held", [3, [torch.zeros(2)], {"0.weight": 1.0}, torch.zeros(3)])
def test_what_is_no_state_dict_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(UntrustedFileError, match="no state dict"):
        load_into(network(), tmp_path / "a.pt")


def test_missing_unexpected_and_misshapen_keys_are_named_and_nothing_is_loaded(tmp_path):
    wrong = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False), nn.Linear(2, 2))
    save(wrong, tmp_path / "a.safetensors")
    model = network(1)
    with pytest.raises(RequestError) as caught:
        load_into(model, tmp_path / "a.safetensors")
    message = str(caught.value)
    assert "it lacks 2.bias" in message
    assert "3.bias, 3.weight" in message or "3.weight, 3.bias" in message
    assert "0.weight (5, 3) where the model has (4, 3)" in message
    assert "and 4 more" in message
    assert equal(model, network(1))


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_non_finite_weights_name_tensor_and_index(tmp_path, bad):
    sick = network()
    sick[2].weight.data[1, 3] = bad
    save(sick, tmp_path / "a.safetensors")
    model = network(1)
    with pytest.raises(UntrustedFileError, match=r"2\.weight\[1, 3\]"):
        load_into(model, tmp_path / "a.safetensors")
    assert equal(model, network(1))


def test_a_missing_file_is_a_request_error(tmp_path):
    with pytest.raises(RequestError, match=r"none\.pt"):
        load_into(network(), tmp_path / "none.pt")


class Holder(nn.Module):
    """A network that calls its only part `model`, as `rs.wrap` does."""

    def __init__(self, seed=0):
        super().__init__()
        self.model = network(seed)

    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize("make", [network, Holder])
@pytest.mark.parametrize("saved_wrapped", [False, True])
@pytest.mark.parametrize("loaded_wrapped", [False, True])
def test_weights_load_through_a_wrap_and_out_of_one(tmp_path, make, saved_wrapped, loaded_wrapped):
    one, other = make(0), make(1)
    save(wrap(one, mean=0.5) if saved_wrapped else one, tmp_path / "a.safetensors")
    load_into(wrap(wrap(other), std=2.0) if loaded_wrapped else other, tmp_path / "a.safetensors")
    assert equal(one, other)


def test_a_wrap_lets_no_part_of_the_weights_be_left_out(tmp_path):
    state = {f"model.{name}": value for name, value in network().state_dict().items()}
    before = network(1)
    for name in (name for name in state if not name.endswith("num_batches_tracked")):  # which torch does without
        torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "a.pt")
        with pytest.raises(RequestError, match=f"lacks {name.removeprefix('model.')}"):
            load_into(wrap(before), tmp_path / "a.pt")
    torch.save({**state, "head.weight": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match=r"lacks 0\.weight"):
        load_into(wrap(before), tmp_path / "a.pt")
    assert equal(before, network(1))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod._module."])
@pytest.mark.parametrize("form", ["pt", "safetensors", "versions"])
def test_weights_from_before_batches_were_counted(tmp_path, prefix, form):
    """Torch's strict rule takes them, unless the file says that its BatchNorm counts."""
    state = OrderedDict((prefix + k, v) for k, v in network().state_dict().items() if "num_batches" not in k)
    path = tmp_path / f"a.{form}"
    if form == "safetensors":
        path.write_bytes(to_bytes(dict(state)))
    else:
        if form == "versions":
            state._metadata = OrderedDict({"": {"version": 1}, f"{prefix}1": {"version": 2}})
        torch.save(state, path)
    model = network(1)
    if form == "versions":
        with pytest.raises(RequestError, match=r"torch refuses it \(.*1\.num_batches_tracked"):
            load_into(model, path)
        assert equal(model, network(1))
    else:
        load_into(model, path)
        assert equal(model, network())


@pytest.mark.parametrize(
    "held",
    [
        lambda state: {"state_dict": [state], "epoch": 3},
        lambda state: {"ema": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
        lambda state: {"state_dict": state, "ema": {key: value + 1 for key, value in state.items()}},
        lambda state: {"critic": {"weight": torch.zeros(2)}, "generator": {f"module.{k}": state[k] for k in state}},
        lambda state: [state, {"lr": 0.1}],
    ],
)  # fmt: skip
def test_weights_are_found_below_the_keys_of_trainers(tmp_path, held):
    torch.save(held(network().state_dict()), tmp_path / "a.pt")
    model = network(1)
    load_into(model, tmp_path / "a.pt")
    assert equal(model, network())


def test_several_that_fit_are_named_with_the_line_that_leaves_one(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"student": network(0).state_dict(), "teacher": network(2).state_dict()}, path)
    model = network(1)
    with pytest.raises(UntrustedFileError, match=r"\['student'\], \['teacher'\]; the line that leaves one: ") as caught:
        load_into(model, path)
    assert equal(model, network(1))
    _follow(str(caught.value), tmp_path)
    load_into(model, tmp_path / "weights.pt")
    assert equal(model, network(0))


def _follow(message, folder):
    """Do what an error says."""
    line = message.split(": torch.save(")[1].partition(";")[0]
    line = f"torch.save({line}".replace('"weights.pt"', repr(str(folder / "weights.pt")))
    exec(line, {"torch": torch})


def test_weights_beside_other_things_show_keys_types_and_the_line_that_mends_it(tmp_path):
    torch.save({**network().state_dict(), "epoch": 3, "err": 0.1}, tmp_path / "a.pt")
    with pytest.raises(UntrustedFileError, match=r"'epoch' \(int\), .*'0\.weight' \(Tensor\)") as caught:
        load_into(network(1), tmp_path / "a.pt")
    _follow(str(caught.value), tmp_path)
    model = network(1)
    load_into(model, tmp_path / "weights.pt")
    assert equal(model, network())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.onnx", b"\x08\x08\x12\x07pytorch", "it is an ONNX graph, not the weights of a module: save module"),
        ("a.pt", b"\x89HDF\r\n\x1a\n0000", "it holds weights of Keras"),
    ],
)
def test_files_of_other_libraries_get_a_sentence(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UntrustedFileError, match=told):
        load_into(network(), tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_a_scripted_module_gets_a_sentence(tmp_path):
    torch.jit.script(network()).save(tmp_path / "a.pt")
    with pytest.raises(UntrustedFileError, match=r"TorchScript archive: give a factory that returns torch\.jit\.load"):
        load_into(network(), tmp_path / "a.pt")


def test_a_module_that_cannot_be_copied_stays_as_it_was_or_is_loaded(tmp_path):
    def normed(seed):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)))
        net(torch.zeros(1, 3))
        return net

    model = normed(1)
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    torch.save({**normed(0).state_dict(), "more": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match="has, and the model has not, more"):
        load_into(model, tmp_path / "a.pt")
    assert equal(model, normed(1))
    torch.save(normed(0).state_dict(), tmp_path / "a.pt")
    load_into(model, tmp_path / "a.pt")
    assert equal(model, normed(0))
