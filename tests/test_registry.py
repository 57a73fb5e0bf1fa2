"""Names: what they resolve to, what listings say, and what a wrong one answers."""

import copy
import pickle

import pytest

import ruvattn
from ruvattn import errors, plugins, refusals, registry
from ruvattn.errors import InvalidInputError, PluginError, UnknownVariantError

PARTS = """
    import ruvattn
    from ruvattn.aggregates import WeightedSum
    from ruvattn.patterns import Causal
    from ruvattn.scores import Dot

    def make_variant(embed_dim, num_heads=1, *, temperature=1.0):
        return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads)

    class Needy(Causal):
        def __init__(self, size, *, offset=0):
            super().__init__()

    def ruvattn_register(registry):
        registry.variant("parts-variant", make_variant, summary="One line.", capabilities=["quick", "warm"])
        registry.score("parts-score", Dot, summary="A score.")
        registry.pattern("parts-pattern", Needy)
        registry.aggregate("parts-aggregate", WeightedSum)
        registry.demo("parts-demo", lambda folder: None, summary="A demo.")
"""


@pytest.fixture
def parts(fake_plugins):
    """A plugin with a name of almost every kind."""
    fake_plugins.install("ruvattn-parts", PARTS, version="1.5")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InvalidInputError, ValueError),
        (errors.DimensionMismatchError, ValueError),
        (errors.InputTooLargeError, ValueError),
        (errors.UnknownVariantError, LookupError),
        (errors.UnsupportedError, NotImplementedError),
        (errors.CheckpointError, Exception),
        (errors.PluginError, Exception),
    ],
)
def test_every_error_is_an_attention_error_and_the_builtin_that_callers_expect(error, builtin):
    assert issubclass(error, errors.AttentionError)
    assert issubclass(error, builtin)
    assert str(pickle.loads(pickle.dumps(error("what happened")))) == "what happened"


def test_the_errors_module_exports_the_whole_family():
    family = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert family == set(errors.__all__)


def test_builtins_are_listed_with_the_core_as_their_origin():
    listed = registry.variants()
    assert {"standard", "multihead", "cross"} <= listed.keys()
    for name in ("standard", "multihead", "cross"):
        assert listed[name].name == name
        assert listed[name].distribution == "ruvattn"
        assert listed[name].version == ruvattn.__version__
        assert listed[name].summary
    assert "dot" in registry.scores()
    assert {"causal", "window"} <= registry.patterns().keys()
    assert "weighted-sum" in registry.aggregates()


def test_public_shortcuts_are_the_registrys_functions():
    assert ruvattn.create is registry.create
    assert ruvattn.variants is registry.variants


def test_listings_are_sorted_by_name(parts):
    plugins.load()
    for listing in (registry.variants, registry.scores, registry.patterns, registry.aggregates, registry.manifolds):
        assert list(listing()) == sorted(listing())


def test_a_listing_is_the_callers_own(parts):
    registry.variants().clear()
    assert "standard" in registry.variants()


def test_a_plugins_names_are_listed_with_their_origin(parts):
    info = registry.variants()["parts-variant"]
    assert info == registry.VariantInfo(
        name="parts-variant",
        summary="One line.",
        distribution="ruvattn-parts",
        version="1.5",
        capabilities=("quick", "warm"),
        options={"temperature": 1.0},
    )
    assert registry.scores()["parts-score"].summary == "A score."
    assert registry.scores()["parts-score"].distribution == "ruvattn-parts"
    assert registry.patterns()["parts-pattern"].options == {"size": registry.REQUIRED, "offset": 0}
    assert registry.demos()["parts-demo"] == registry.ComponentInfo("parts-demo", "A demo.", "ruvattn-parts", "1.5", {})


def test_options_given_by_the_plugin_win_over_the_signature(fake_plugins):
    fake_plugins.install(
        "ruvattn-given",
        """
        def ruvattn_register(registry):
            registry.variant("given", lambda **options: None, summary="x", options={"depth": 3})
        """,
    )
    assert registry.variants()["given"].options == {"depth": 3}


def test_required_pickles_and_copies_as_the_same_object():
    assert pickle.loads(pickle.dumps(registry.REQUIRED)) is registry.REQUIRED
    assert copy.deepcopy(registry.REQUIRED) is registry.REQUIRED
    assert repr(registry.REQUIRED) == "<required>"


def test_names_resolve_to_new_instances(parts):
    from ruvattn.aggregates import Aggregate
    from ruvattn.interfaces import Attention
    from ruvattn.patterns import Pattern
    from ruvattn.scores import Score

    for name in ("standard", "parts-variant"):
        first, second = (registry.create(name, embed_dim=8, num_heads=2) for _ in range(2))
        assert isinstance(first, Attention)
        assert first is not second
    for name in ("dot", "parts-score"):
        assert isinstance(registry.get_score(name), Score)
    assert isinstance(registry.get_pattern("causal"), Pattern)
    assert isinstance(registry.get_pattern("parts-pattern", size=3), Pattern)
    for name in ("weighted-sum", "parts-aggregate"):
        assert isinstance(registry.get_aggregate(name), Aggregate)


def test_each_kind_is_a_namespace_of_its_own(fake_plugins):
    fake_plugins.install(
        "ruvattn-same",
        """
        from ruvattn.patterns import Causal
        from ruvattn.scores import Dot

        def ruvattn_register(registry):
            registry.score("same", Dot)
            registry.pattern("same", Causal)
        """,
    )
    assert type(registry.get_score("same")).__name__ == "Dot"
    assert type(registry.get_pattern("same")).__name__ == "Causal"


@pytest.mark.parametrize(
    ("kind", "get"),
    [
        ("variant", registry.create),
        ("score", registry.get_score),
        ("pattern", registry.get_pattern),
        ("aggregate", registry.get_aggregate),
        ("manifold", registry.get_manifold),
        ("demo", registry.show_demo),
    ],
)
def test_an_unknown_name_is_an_error_that_names_its_kind(kind, get):
    with pytest.raises(UnknownVariantError, match=f"^unknown {kind} 'no-such-name'; installed: "):
        get("no-such-name")


def test_a_near_miss_is_answered_with_the_close_names_first():
    with pytest.raises(UnknownVariantError) as caught:
        registry.create("standrad")
    message = str(caught.value)
    assert "did you mean 'standard'?" in message
    assert "installed: 'standard', " in message
    assert "\n" not in message


def test_an_unknown_name_says_what_failed_to_load_and_why(fake_plugins):
    fake_plugins.install("ruvattn-broken", "import no_such_module_anywhere")
    plugins.status()
    with pytest.raises(UnknownVariantError) as caught:
        registry.create("something")
    assert "failed to load: ruvattn-broken 1.0 (ModuleNotFoundError: No module named 'no_such_module_anywhere')" in str(
        caught.value
    )


def test_an_unknown_name_says_what_the_environment_leaves_out(fake_plugins, monkeypatch):
    fake_plugins.install("ruvattn-parts", PARTS)
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "")
    with pytest.raises(UnknownVariantError, match="left out by RUVATTN_LOAD_PLUGINS: ruvattn-parts 1.0"):
        registry.create("parts-variant")


@pytest.fixture
def only_fakes(fake_plugins, monkeypatch):
    """Fake plugins with every real one left out, and a provider that no one has installed."""
    monkeypatch.setattr(refusals, "PROVIDERS", {"ruvattn-elsewhere": ("swirling",)})
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "ruvattn-elsewhere")
    return fake_plugins


@pytest.mark.parametrize("name", ["swirling", "swirlng"])
def test_an_unknown_name_says_what_would_provide_it(only_fakes, name):
    plugins.status()
    with pytest.raises(UnknownVariantError) as caught:
        registry.create(name)
    assert "'swirling' is provided by ruvattn-elsewhere: pip install ruvattn-elsewhere" in str(caught.value)


def test_a_provider_that_is_installed_but_lacks_the_name_wants_an_upgrade(only_fakes):
    only_fakes.install("ruvattn-elsewhere", "def ruvattn_register(registry): pass", version="0.0.1")
    with pytest.raises(UnknownVariantError) as caught:
        registry.create("swirling")
    assert "'swirling' is not in ruvattn-elsewhere 0.0.1: pip install --upgrade ruvattn-elsewhere" in str(caught.value)


def test_a_provider_that_is_installed_and_has_the_name_is_not_recommended(only_fakes):
    only_fakes.install(
        "ruvattn-elsewhere",
        """
        def ruvattn_register(registry):
            registry.variant("swirling", lambda embed_dim, num_heads: None, summary="x")
        """,
    )
    with pytest.raises(UnknownVariantError) as caught:
        registry.create("swirlng")
    assert "did you mean 'swirling'?" in str(caught.value)
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize("name", [None, 3, ["standard"]])
def test_a_name_that_is_no_str_is_invalid(name):
    with pytest.raises(InvalidInputError, match="name of a variant must be a str, got "):
        registry.create(name)


def test_an_option_that_the_factory_lacks_is_named(parts):
    with pytest.raises(InvalidInputError) as caught:
        registry.create("parts-variant", embed_dim=8, temprature=2.0)
    assert str(caught.value) == (
        "variant 'parts-variant' has no option 'temprature'; its options: embed_dim, num_heads, temperature"
    )


def test_an_option_that_the_factory_needs_is_named(parts):
    with pytest.raises(InvalidInputError, match="pattern 'parts-pattern' needs size=; its options: size, offset"):
        registry.get_pattern("parts-pattern")


HANDING_ON = """
    import ruvattn

    def tempered(embed_dim, num_heads=1, *, slopes=1.0, **options):
        return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads, score="rbf", score_options={}, **options)

    def over_tempered(embed_dim, num_heads=1, *, depth=1, **options):
        return ruvattn.create("tempered", embed_dim=embed_dim, num_heads=num_heads, softcap=2.0, **options)

    def mistaken(embed_dim, num_heads=1, **options):
        return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads, scoer="rbf", **options)

    class HandingOn(ruvattn.headwise.HeadwiseAttention):
        attention_type = "handing-on"

        def __init__(self, embed_dim, num_heads=1, *, near=1, **options):
            super().__init__(embed_dim, num_heads, own={"near": near}, **options)

    def ruvattn_register(registry):
        registry.variant("tempered", tempered, summary="x")
        registry.variant("over-tempered", over_tempered, summary="x")
        registry.variant("mistaken", mistaken, summary="x")
        registry.variant("handing-on", HandingOn, summary="x")
"""
COMMON = "dropout_rate, aggregate, aggregate_options, causal, window, scale"


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("tempered", f"embed_dim, num_heads, slopes, {COMMON}, softcap, check_finite, max_keys, output_dropout, learn"),
        ("over-tempered", f"embed_dim, num_heads, depth, slopes, {COMMON}, check_finite, max_keys, output_dropout, learn"),
    ],
)
def test_an_option_that_is_handed_on_in_vain_is_one_that_the_name_asked_for_lacks(fake_plugins, name, takes):
    """With the options of both, but for those that the factory sets itself."""
    fake_plugins.install("ruvattn-handing", HANDING_ON)
    with pytest.raises(InvalidInputError) as caught:
        registry.create(name, embed_dim=8, slops=2.0)
    assert str(caught.value) == f"variant {name!r} has no option 'slops'; its options: {takes}"
    assert type(caught.value) is InvalidInputError
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_class_that_hands_on_what_it_does_not_know_is_named_with_its_own_options(fake_plugins):
    fake_plugins.install("ruvattn-handing", HANDING_ON)
    takes = "embed_dim, num_heads, near, dropout_rate, score, "
    with pytest.raises(InvalidInputError, match=f"^variant 'handing-on' has no option 'slops'; its options: {takes}"):
        registry.create("handing-on", embed_dim=8, slops=2.0)


def test_an_option_that_a_factory_gives_by_itself_is_told_to_be_left_out():
    with pytest.raises(InvalidInputError, match=r"^variant 'rbf' gives score by itself: leave score= out$"):
        registry.create("rbf", embed_dim=8, score="dot")


def test_an_option_that_a_factory_makes_up_is_its_own_mistake(fake_plugins):
    fake_plugins.install("ruvattn-handing", HANDING_ON)
    with pytest.raises(InvalidInputError, match="^variant 'standard' has no option 'scoer'; its options: embed_dim, "):
        registry.create("mistaken", embed_dim=8)


def test_another_value_that_is_refused_inside_says_what_it_said(fake_plugins):
    fake_plugins.install("ruvattn-handing", HANDING_ON)
    with pytest.raises(InvalidInputError, match="^num_heads must divide embed_dim, which is 8, got 3$"):
        registry.create("tempered", embed_dim=8, num_heads=3)


def test_a_type_error_inside_a_factory_is_its_own(fake_plugins):
    fake_plugins.install(
        "ruvattn-inner",
        """
        def factory():
            return len(3)

        def ruvattn_register(registry):
            registry.score("inner", factory)
        """,
    )
    with pytest.raises(TypeError, match="has no len"):
        registry.get_score("inner")


def test_a_factory_that_returns_something_else_is_the_plugins_error(fake_plugins):
    fake_plugins.install(
        "ruvattn-else",
        """
        def ruvattn_register(registry):
            registry.score("else", dict)
            registry.variant("else", lambda **options: None, summary="x")
        """,
    )
    with pytest.raises(PluginError, match=r"score 'else' from ruvattn-else 1\.0 .* returned dict, not an instance of Score"):
        registry.get_score("else")
    with pytest.raises(PluginError, match="returned NoneType, not an instance of Attention"):
        registry.create("else")


def test_a_demonstration_is_shown_by_name_and_its_errors_are_raised(fake_plugins, tmp_path):
    fake_plugins.install(
        "ruvattn-showing",
        """
        from ruvattn.demo import Demonstration

        def show(folder):
            if folder is None:
                raise KeyError("folder")
            return Demonstration([folder.name])

        def ruvattn_register(registry):
            registry.demo("showing", show)
        """,
    )
    assert registry.show_demo("showing", tmp_path).lines == (tmp_path.name,)
    with pytest.raises(KeyError, match="folder"):
        registry.show_demo("showing")


def test_a_demonstration_that_is_none_is_the_plugins_error(parts):
    with pytest.raises(PluginError, match=r"demo 'parts-demo' from ruvattn-parts 1\.5 .* returned NoneType, not a ruvattn\.demo\.Demonstration"):
        registry.show_demo("parts-demo")


def test_a_demonstration_that_two_plugins_register_is_an_error_that_names_both(fake_plugins):
    for name in ("ruvattn-first", "ruvattn-second"):
        fake_plugins.install(name, "def ruvattn_register(registry): registry.demo('same', lambda folder: None)")
    with pytest.warns(RuntimeWarning, match="demo 'same' is registered by"):
        assert "same" not in registry.demos()
    with pytest.raises(PluginError, match=r"demo 'same' is registered by ruvattn-first 1\.0 .* and ruvattn-second 1\.0"):
        registry.show_demo("same")


@pytest.mark.parametrize(("name", "show", "message"), [
    ("Two Words", "print", "name of a demo must be lower-case letters"),
    ("fine", "None", "factory of demo 'fine' must be callable, got NoneType"),
])  # fmt: skip
def test_a_demonstration_that_cannot_be_shown_is_refused(fake_plugins, name, show, message):
    fake_plugins.install("ruvattn-bad", f"def ruvattn_register(registry): registry.demo({name!r}, {show})")
    (status,) = [status for status in plugins.status() if status.distribution == "ruvattn-bad"]
    assert message in status.error
