"""What follows from the abstract classes for any variant, tried on the smallest one, and what makes a configuration."""

import copy
import gc
import json
import pickle
import threading
import weakref

import numpy as np
import pytest

import ruvattn
from ruvattn import interfaces
from ruvattn.context import Context
from ruvattn.errors import AttentionError, DimensionMismatchError, InvalidInputError, UnknownVariantError, UnsupportedError
from ruvattn.interfaces import AttentionConfig, Gradients


class Smallest(interfaces.Attention):
    """Everything that a variant has to have."""

    @property
    def config(self):
        return AttentionConfig(4, 1, attention_type="smallest")

    def attend(self, q, k=None, v=None, **options):
        k = q if k is None else k
        v = k if v is None else v
        heads = [x[..., None, :, :] for x in (q, k, v)]
        out, lse = ruvattn.attention(*heads, return_lse=True, **options)
        return out[..., 0, :, :], Context(*heads, out, lse, options, (q, k, v))


def through_pickle(x):
    return pickle.loads(pickle.dumps(x))


@pytest.fixture
def arrays():
    return tuple(np.random.default_rng(0).standard_normal((3, 2, 5, 4)))


# --- the interfaces ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "members"),
    [
        ("Attention", "forward forward_batch __call__ forward_with_context get_attention_weights reset config"),
        ("GraphAttention", "forward_with_edges forward_neighborhood forward_k_hop forward_graph"),
        ("GeometricAttention", "forward_geometric compute_manifold_weights project_tangent exp_map log_map manifold"),
        ("Manifold", "distance inner_product curvature exp_map log_map project project_tangent transport mean"),
        ("SparseAttention", "forward_sparse forward_windowed forward_strided forward_topk"),
        ("TrainableAttention", "backward parameters num_parameters update_parameters save_checkpoint load_checkpoint"),
    ],
)
def test_every_interface_is_abstract_and_has_its_members(interface, members):
    found = getattr(ruvattn, interface)
    for member in members.split():
        assert callable(getattr(found, member)) or isinstance(getattr(found, member), property), member
    if interface != "Manifold":
        assert issubclass(found, ruvattn.Attention)
    with pytest.raises(TypeError, match="abstract"):
        found()


def test_a_variant_needs_attend_and_config():
    assert ruvattn.Attention.__abstractmethods__ == {"attend", "config"}


def test_gradients_are_those_of_the_inputs_and_the_parameters():
    assert Gradients._fields == ("query", "keys", "values", "params")


def test_a_geometric_variant_asks_its_manifold():
    class Flat(ruvattn.Manifold):
        curvature = 0.0

        def distance(self, x, y):
            return np.linalg.norm(np.subtract(x, y), axis=-1)

        def inner_product(self, base, u, v):
            return np.sum(np.multiply(u, v), axis=-1)

        def exp_map(self, base, tangent):
            return np.add(base, tangent)

        def log_map(self, base, point):
            return np.subtract(point, base)

        def project(self, x):
            return x

        def project_tangent(self, point, base):
            return np.asarray(point)

        def transport(self, tangent, base, point):
            return tangent

        def mean(self, points, weights):
            return np.average(points, axis=-2, weights=weights)

    class Geometric(Smallest, ruvattn.GeometricAttention):
        manifold = Flat()

        def forward_geometric(self, query, keys, values):
            return self(query, keys, values)

        def compute_manifold_weights(self, query, keys):
            return ruvattn.attention_weights(query, keys)

    variant = Geometric()
    base, point = np.array([1.0, 2.0]), np.array([4.0, 6.0])
    np.testing.assert_array_equal(variant.log_map(base, point), [3, 4])
    np.testing.assert_array_equal(variant.exp_map(base, variant.log_map(base, point)), point)
    np.testing.assert_array_equal(variant.project_tangent(point, base), point)


def test_the_number_of_parameters_follows_from_them():
    class Trainable(Smallest, ruvattn.TrainableAttention):
        def backward(self, grad_output, context=None):
            return Gradients(grad_output, grad_output, grad_output, {})

        def parameters(self):
            return {"a": np.zeros((3, 4)), "b": np.zeros(5)}

        def update_parameters(self, optimizer):
            optimizer(self.parameters())

        def save_checkpoint(self, path):
            raise UnsupportedError("no files here")

        def load_checkpoint(self, path):
            raise UnsupportedError("no files here")

    assert Trainable().num_parameters == 17


# --- what follows from attend ----------------------------------------------------------------------------------------------------


def test_a_call_gives_the_output_and_on_demand_the_lse(arrays):
    expected, expected_lse = ruvattn.attention(*(x[:, None] for x in arrays), return_lse=True)
    np.testing.assert_array_equal(Smallest()(*arrays), expected[:, 0])
    out, lse = Smallest()(*arrays, return_lse=True)
    np.testing.assert_array_equal(out, expected[:, 0])
    np.testing.assert_array_equal(lse, expected_lse)


def test_options_of_a_call_reach_attend(arrays):
    _, context = Smallest().forward_with_context(*arrays, causal=True)
    assert context.options == {"causal": True}


def test_one_query_is_a_call_of_one_row(arrays):
    q, k, v = (x[0] for x in arrays)
    np.testing.assert_array_equal(Smallest().forward(q[0], k, v), Smallest()(q[:1], k, v)[0])
    np.testing.assert_array_equal(Smallest().forward_batch(q, k, v), Smallest()(q, k, v))


@pytest.mark.parametrize(
    ("method", "shapes", "name"),
    [
        ("forward", [(1, 4), (3, 4), (3, 4)], "query"),
        ("forward", [(4,), (4,), (3, 4)], "keys"),
        ("forward", [(4,), (3, 4), (2, 3, 4)], "values"),
        ("forward_batch", [(4,), (3, 4), (3, 4)], "queries"),
        ("forward_batch", [(2, 4), (2, 3, 4), (3, 4)], "keys"),
    ],
)
def test_single_forms_name_the_array_that_has_another_rank(method, shapes, name):
    with pytest.raises(DimensionMismatchError, match=f"^{name} must have . ax"):
        getattr(Smallest(), method)(*map(np.ones, shapes))


def test_weights_are_those_of_the_last_call_or_of_a_context(arrays):
    variant = Smallest()
    q, k, v = arrays
    _, context = variant.forward_with_context(q, k, v)
    variant(q[:, :2], k, v)
    weights = variant.get_attention_weights()
    assert weights.shape == (2, 1, 2, 5)
    np.testing.assert_array_equal(weights, ruvattn.attention_weights(q[:, None, :2], k[:, None]))
    assert variant.get_attention_weights(context).shape == (2, 1, 5, 5)
    variant.forward_with_context(q[:, :3], k, v)
    assert variant.get_attention_weights().shape == (2, 1, 3, 5)


def test_without_a_call_there_are_no_weights(arrays):
    variant = Smallest()
    assert variant.get_attention_weights() is None
    variant(*arrays)
    variant.reset()
    assert variant.get_attention_weights() is None


def test_reset_lets_go_of_the_arrays():
    variant = Smallest()
    x = np.ones((3, 4))
    variant(x)
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is not None
    variant.reset()
    gc.collect()
    assert alive() is None


def test_something_else_than_a_context_is_an_error(arrays):
    with pytest.raises(InvalidInputError, match="context must be what forward_with_context returned, got ndarray"):
        Smallest().get_attention_weights(arrays[0])


def test_each_thread_has_a_last_call_of_its_own():
    variant = Smallest()
    variant(np.ones((2, 4)))
    barrier = threading.Barrier(2)
    shapes = {}

    def call(length):
        shapes[length] = [variant.get_attention_weights()]
        variant(np.ones((length, 4)))
        barrier.wait(10)
        shapes[length].append(variant.get_attention_weights().shape)

    threads = [threading.Thread(target=call, args=(length,)) for length in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == {3: [None, (1, 3, 3)], 4: [None, (1, 4, 4)]}
    assert variant.get_attention_weights().shape == (1, 2, 2)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, through_pickle], ids=["copy", "deepcopy", "pickle"])
def test_a_duplicate_has_no_memory_of_calls(duplicate):
    variant = Smallest()
    variant.training = True
    variant(np.ones((2, 4)))
    twin = duplicate(variant)
    assert twin.training
    assert twin.get_attention_weights() is None
    twin(np.ones((3, 4)))
    assert variant.get_attention_weights().shape == (1, 2, 2)


def test_a_variant_shows_its_size():
    assert repr(Smallest()) == "Smallest(embed_dim=4, num_heads=1)"


def test_a_context_computes_its_weights_from_its_options(arrays):
    q, k, v = arrays
    context = Context(q, k, v, v, v[..., 0], {"aggregate": "weighted-sum", "causal": True, "dropout": 0.5, "seed": 3})
    np.testing.assert_array_equal(context.weights(), ruvattn.attention_weights(q, k, causal=True, dropout=0.5, seed=3))
    assert repr(context) == "Context(q=(2, 5, 4), k=(2, 5, 4), v=(2, 5, 4), options=['aggregate', 'causal', 'dropout', 'seed'])"


# --- configurations ---------------------------------------------------------------------------------------------------------------

CONFIG = AttentionConfig(
    16,
    4,
    0.25,
    "multihead",
    {"num_kv_heads": 2, "window": (3, -1), "scale": [0.5, 1, 2, 3], "bias": True, "softcap": None, "score_options": {"sigma": 2.5}},
)


def test_a_configuration_survives_json():
    text = CONFIG.to_json()
    assert json.loads(text)["options"]["window"] == [3, -1]
    assert AttentionConfig.from_json(text) == CONFIG
    assert AttentionConfig.from_json(text.encode()) == CONFIG
    assert AttentionConfig.from_json(text).to_json() == text
    assert "\n" not in text


def test_a_configuration_survives_a_dict_and_pickling():
    assert AttentionConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert pickle.loads(pickle.dumps(CONFIG)) == CONFIG
    assert hash(copy.deepcopy(CONFIG)) == hash(CONFIG)


def test_a_dict_of_a_configuration_is_the_callers_own():
    values = CONFIG.to_dict()
    values["options"]["num_kv_heads"] = 4
    values["options"]["score_options"]["sigma"] = 1.0
    assert CONFIG.options["num_kv_heads"] == 2
    assert CONFIG.options["score_options"] == {"sigma": 2.5}


def test_a_configuration_keeps_its_own_copy_of_the_options():
    options = {"scale": [1.0, 2.0]}
    config = AttentionConfig(8, options=options)
    options["scale"][0] = 7.0
    options["causal"] = True
    assert config.options == {"scale": (1.0, 2.0)}


def test_numpy_numbers_become_plain_ones():
    config = AttentionConfig(np.int64(8), np.int32(2), np.float32(0.5), options={"scale": np.array([1.0, 2.0]), "causal": np.True_, "n": np.int8(3)})
    assert json.loads(config.to_json())["options"] == {"scale": [1.0, 2.0], "causal": True, "n": 3}
    assert (type(config.embed_dim), type(config.num_heads), type(config.dropout_rate)) == (int, int, float)


def test_fields_with_a_default_may_be_missing():
    assert AttentionConfig.from_json('{"embed_dim": 8}') == AttentionConfig(8)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        CONFIG.embed_dim = 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 0}, "embed_dim must be an int from 1, got 0"),
        ({"embed_dim": 8.0}, "embed_dim must be an int from 1, got 8.0"),
        ({"embed_dim": True}, "embed_dim must be an int from 1, got True"),
        ({"embed_dim": 8, "num_heads": -1}, "num_heads must be an int from 1, got -1"),
        ({"embed_dim": 8, "dropout_rate": 1.0}, "dropout_rate must be at least 0 and less than 1, got 1.0"),
        ({"embed_dim": 8, "dropout_rate": float("nan")}, "dropout_rate must be at least 0 and less than 1, got nan"),
        ({"embed_dim": 8, "attention_type": ""}, "attention_type must be the name of a variant, got ''"),
        ({"embed_dim": 8, "options": [1]}, "options must be a mapping of names to values"),
        ({"embed_dim": 8, "options": None}, "options must be a mapping of names to values"),
        ({"embed_dim": 8, "options": {"score": ruvattn.Dot()}}, r"options\['score'\] must be a name, a number, .* got Dot"),
        ({"embed_dim": 8, "options": {"scale": float("inf")}}, r"options\['scale'\] must be finite, got inf"),
        ({"embed_dim": 8, "options": {"scale": [1.0, float("nan")]}}, r"options\['scale'\]\[1\] must be finite, got nan"),
        ({"embed_dim": 8, "options": {3: 4}}, "options must have names as keys, got 3"),
        ({"embed_dim": 8, "options": {"num_heads": 4}}, "options must not hold 'num_heads', which is a field of its own"),
    ],
)
def test_a_field_without_sense_is_named(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        AttentionConfig(**arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a configuration must be JSON"),
        ("[" * 100_000, "a configuration must be JSON"),
        (None, "a configuration must be JSON"),
        ("[1, 2]", "a configuration must be a mapping of embed_dim, .* got list"),
        ("{}", "a configuration needs embed_dim"),
        ('{"embed_dim": 8, "heads": 2}', "a configuration has no field 'heads'; its fields: embed_dim, num_heads"),
        ('{"embed_dim": 8, "options": {"scale": NaN}}', "must be finite, got nan"),
    ],
)
def test_text_that_is_no_configuration_is_an_error(text, message):
    with pytest.raises(InvalidInputError, match=message):
        AttentionConfig.from_json(text)


def test_a_configuration_creates_its_variant():
    variant = AttentionConfig(16, 4, 0.25, "multihead", {"num_kv_heads": 2}).create()
    assert type(variant).__name__ == "MultiHeadAttention"
    assert variant.config.num_heads == 4
    assert variant.config.dropout_rate == 0.25
    assert variant.config.options["num_kv_heads"] == 2


def test_creating_from_a_configuration_explains_what_is_wrong():
    with pytest.raises(UnknownVariantError, match="unknown variant 'no-such'"):
        AttentionConfig(8, attention_type="no-such").create()
    with pytest.raises(InvalidInputError, match="variant 'standard' has no option 'no_such'"):
        AttentionConfig(8, options={"no_such": 1}).create()


def test_errors_of_configurations_belong_to_the_family():
    with pytest.raises(AttentionError):
        AttentionConfig("8")
