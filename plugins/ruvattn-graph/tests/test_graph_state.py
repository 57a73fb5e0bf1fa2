"""State dicts of the graph variants, their own and torch-geometric's, and tensors in the place of arrays."""

from __future__ import annotations

import numpy as np
import pytest

from ruvattn.errors import DimensionMismatchError, InvalidInputError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from graph_oracle import EVERY, NAMES, draw, features, same_bits

every_form = pytest.mark.parametrize(("name", "form"), EVERY)
every_variant = pytest.mark.parametrize("name", NAMES)
EDGES = np.array([[0, 1, 2, 0], [1, 2, 3, 1]])


def spoilt(state, how):
    first = next(iter(state))
    array = state[first]
    changes = {
        "one missing": {name: value for name, value in state.items() if name != first},
        "one too many": {**state, "extra": array},
        "another shape": {**state, first: array[..., :-1]},
        "another number of axes": {**state, first: array[None]},
        "NaN in the last": {**state, list(state)[-1]: np.full_like(state[list(state)[-1]], np.nan)},
        "infinity in the first": {**state, first: np.full_like(array, np.inf)},
        "text": {**state, first: np.full(array.shape, "1")},
        "complex numbers": {**state, first: array.astype(complex)},
        "None": {**state, first: None},
        "a name that is a number": {**state, 3: array},
        "nothing": {},
        "a list": list(state.items()),
        "None at all": None,
    }
    return changes[how]


@pytest.mark.parametrize(
    "how",
    ["one missing", "one too many", "another shape", "another number of axes", "NaN in the last", "infinity in the first", "text", "complex numbers",
     "None", "a name that is a number", "nothing", "a list", "None at all"],
)  # fmt: skip
@every_form
def test_a_state_dict_that_is_wrong_changes_nothing(name, form, how):
    layer = draw(name, form)
    state = {parameter: array + 1 for parameter, array in layer.parameters().items()}
    before = {parameter: array.copy() for parameter, array in layer.parameters().items()}
    with pytest.raises((InvalidInputError, DimensionMismatchError), match="state|must have shape|finite"):
        layer.load_state_dict(spoilt(state, how))
    assert all(same_bits(array, before[parameter]) for parameter, array in layer.parameters().items())


@every_variant
def test_numbers_beyond_the_dtype_of_the_parameters_are_refused(name):
    layer = draw(name)
    last = list(layer.parameters())[-1]
    state = {parameter: array.astype(np.float64) + 1 for parameter, array in layer.parameters().items()}
    before = {parameter: array.copy() for parameter, array in layer.parameters().items()}
    state[last][...] = 1e300
    with pytest.raises(InvalidInputError, match=f"{last} in state has numbers that aren't finite in float32"):
        layer.load_state_dict(state)
    assert all(same_bits(array, before[parameter]) for parameter, array in layer.parameters().items())


@every_variant
def test_parameters_may_change_places(name):
    layer = draw(name, dtype="float64")
    before = {parameter: array.copy() for parameter, array in layer.parameters().items()}
    pairs = [(a, b) for a in before for b in before if a < b and before[a].shape == before[b].shape]
    for a, b in pairs:
        layer.load_state_dict({**layer.parameters(), a: layer.parameters()[b], b: layer.parameters()[a]})
        assert same_bits(layer.parameters()[a], before[b])
        assert same_bits(layer.parameters()[b], before[a])
        layer.load_state_dict(before)


THEIRS = {
    "gat": {"W": "lin.weight", "a_src": "att_src", "a_dst": "att_dst", "a_edge": "att_edge", "W_edge": "lin_edge.weight",
            "W_res": "res.weight", "b": "bias"},
    "gatv2": {"W_src": "lin_l.weight", "b_src": "lin_l.bias", "W_dst": "lin_r.weight", "b_dst": "lin_r.bias", "a": "att", "W_edge": "lin_edge.weight",
              "W_res": "res.weight", "b": "bias"},
    "graph-transformer": {"W_q": "lin_query.weight", "b_q": "lin_query.bias", "W_k": "lin_key.weight", "b_k": "lin_key.bias",
                          "W_v": "lin_value.weight", "b_v": "lin_value.bias", "W_skip": "lin_skip.weight", "b_skip": "lin_skip.bias",
                          "W_edge": "lin_edge.weight", "w_beta": "lin_beta.weight"},
}  # fmt: skip


class Tensor:
    """As far as torch's go: to be taken off its graph and its device first."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("Can't convert a tensor that requires grad")

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, form in EVERY if name in THEIRS])
@pytest.mark.parametrize("kind", [np.asarray, Tensor, np.float64])
def test_state_dicts_of_torch_geometric_are_read_by_its_names_and_turned(name, form, kind):
    source, layer = draw(name, form, seed=1), draw(name, form, seed=2)
    state = {}
    for parameter, array in source.parameters().items():
        theirs = array.T if parameter.startswith(("W", "w")) else array[None] if parameter.startswith("a") else array
        state[THEIRS[name][parameter]] = kind(theirs)
    layer.load_state_dict(state)
    assert all(same_bits(array, source.parameters()[parameter]) for parameter, array in layer.parameters().items())
    wrong = {**state, "lin_other.weight": np.ones(3)}
    with pytest.raises(InvalidInputError, match="state has 'lin_other.weight', which this"):
        layer.load_state_dict(wrong)
    missing = dict(list(state.items())[1:])
    with pytest.raises(InvalidInputError, match=f"state must have '{next(iter(state))}' for this '{name}'"):
        layer.load_state_dict(missing)


@every_variant
def test_features_may_be_tensors_with_a_gradient(name):
    layer, edges = draw(name), EDGES
    x, _ = features(layer, 5, 4)
    assert same_bits(layer.forward_graph(Tensor(x), Tensor(edges)), layer.forward_graph(x, edges))
    assert same_bits(layer.forward_graph((Tensor(x), Tensor(x.copy())), edges), layer.forward_graph((x, x.copy()), edges))
    assert same_bits(layer.forward_with_edges(Tensor(x), Tensor(x), Tensor(x), edges), layer.forward_with_edges(x, x.copy(), x.copy(), edges))


class NarrowTensor(Tensor):
    """One of a dtype that NumPy doesn't have."""

    def numpy(self):
        raise TypeError("Got unsupported ScalarType BFloat16")


@every_variant
def test_tensors_that_numpy_has_no_dtype_for_are_named(name):
    layer, edges = draw(name), EDGES
    x, _ = features(layer, 5, 4)
    with pytest.raises(InvalidInputError, match=r"^x can't be made an array: Got unsupported ScalarType BFloat16: .*\.float\(\)"):
        layer.forward_graph(NarrowTensor(x), edges)
    state = {parameter: NarrowTensor(array) for parameter, array in layer.parameters().items()}
    with pytest.raises(InvalidInputError, match=f"^{next(iter(state))} in state can't be made an array: Got unsupported ScalarType"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in THEIRS])
def test_variants_that_torch_geometric_does_not_have_say_so(name):
    layer = draw(name)
    with pytest.raises(InvalidInputError, match=f"'{name}' has no counterpart in torch-geometric"):
        layer.load_state_dict({"lin.weight": np.ones((3, 3))})
