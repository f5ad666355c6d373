"""Registering plugins by hand: names, rules, isolation of what they offer, advice for unknown names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.config import ComponentConfig, ObjectiveConfig, base_config
from vtp_core.errors import UsageError
from vtp_core.plugins import (
    KINDS,
    BrokenComponent,
    InvalidPlugin,
    PluginFailure,
    Plugins,
    UnknownComponent,
    hookimpl,
)
from vtp_core.plugins.hookspecs import hook_name
from vtp_core.plugins.own import OWN
from vtp_core.recipe.tables.augmentation import AugmentationName

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True)


def plugin(*names, hook="register_objectives", api=2, **keywords):
    """A plugin that registers `names` through one hook."""

    @hookimpl(specname=hook)
    def offer(register):
        for name in names:
            register(name, "somewhere.objective:Thing", **keywords)

    return SimpleNamespace(vtp_api=api, offer=offer)


def with_hook(name, function, api=2):
    return SimpleNamespace(**{"vtp_api": api, name: hookimpl(function)})


def offered(plugins):
    """What is there beside the core's own."""
    return [item for item in plugins.components() if item not in OWN]


def test_first_party_names_are_bare_and_others_carry_the_plugin():
    plugins = Plugins()
    plugins.add(plugin("clip"), "clip", distribution="vtp-core", version="1.0")
    plugins.add(plugin("clip"), "foo", distribution="vtp-plugin-foo", version="0.2")
    plugins.add(plugin("clip"), "by_hand")
    assert [item.name for item in plugins.components("objective")] == ["by_hand.clip", "clip", "foo.clip"]
    assert plugins.find("objective", "foo.clip").distribution == "vtp-plugin-foo"
    assert plugins.find("objective", "clip").version == "1.0"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_hook_that_registers(kind):
    plugins = Plugins()
    plugins.add(plugin("thing", hook=hook_name(kind), summary="A thing."), "foo")
    (item,) = offered(plugins)
    assert (item.kind, item.name, item.summary) == (kind, "foo.thing", "A thing.")
    assert [found for found in plugins.components(kind) if found not in OWN] == [item]
    assert all(item not in plugins.components(other) for other in KINDS if other != kind)


def test_components_are_listed_by_kind_then_name():
    plugins = Plugins()
    plugins.add(plugin("b", "a"), "foo")
    plugins.add(plugin("z", hook="register_encoders"), "bar")
    plugins.add(plugin("y", hook="register_optimizers"), "baz")
    names = [item.name for item in plugins.components() if item.kind != "augmentation"]
    assert names == ["bar.z", "foo.a", "foo.b", "adamw", "baz.y"]


def test_the_cores_own_components_are_always_there_and_can_be_used():
    plugins = Plugins()
    assert list(plugins) == [] and set(plugins.components()) == set(OWN)
    for item in OWN:
        assert plugins.find(item.kind, item.name) is item
        config = item.load_config()
        assert isinstance(item.load_target(), type) and issubclass(config, base_config(item.kind))
    assert {item.name for item in plugins.components("augmentation")} == set(get_args(AugmentationName))


def test_a_built_in_plugin_cannot_take_a_name_of_the_core():
    taken = plugin("clip", hook="register_augmentations")
    with pytest.raises(InvalidPlugin, match='augmentation "clip" is offered by both the core and bar'):
        Plugins().add(taken, "bar", distribution="vtp-core")
    Plugins().add(taken, "bar")  # as bar.clip


@given(st.dictionaries(NAMES, st.lists(NAMES, min_size=1, unique=True), max_size=5))
def test_everything_registered_is_found_under_its_full_name(offers):
    plugins = Plugins()
    for name, components in offers.items():
        plugins.add(plugin(*components), name)
    expected = {f"{name}.{component}" for name, components in offers.items() for component in components}
    assert {item.name for item in plugins.components("objective")} == expected
    assert all(plugins.find("objective", name).name == name for name in expected)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (plugin("x", api=None), "does not state its API version; add the line vtp_api = 2"),
        (
            plugin("x", api=3),
            "written for vtp_api 3, this vtp-core has 2; upgrade vtp-core, or install an older",
        ),
        (plugin("x", api=1), "written for vtp_api 1, this vtp-core has 2; upgrade the plugin, or change it"),
        (plugin("x", api="1"), "written for vtp_api '1'"),
        (plugin("x", api=True), "written for vtp_api True"),
        (SimpleNamespace(vtp_api=2), "it has no hook"),
        (with_hook("register_objective", lambda register: None), "did you mean register_objectives?"),
        (with_hook("offer_everything", lambda register: None), "unknown hook offer_everything"),
        (with_hook("register_objectives", lambda register, extra: None), "extra"),
        (SimpleNamespace(vtp_api=2, register_encoders=lambda register: None), "put @vtp.hookimpl above it"),
        (plugin("Upper"), 'objective name "Upper" must be lower-case'),
        (plugin("a.b"), 'objective name "a.b"'),
        (plugin("x", "x"), 'objective "foo.x" is registered twice'),
        (plugin("x", config="no"), 'config of objective "x" is "no", expected "package.module:Class"'),
    ],
)
def test_a_plugin_that_breaks_a_rule_is_refused_whole(module, message):
    plugins = Plugins()
    with pytest.raises(InvalidPlugin) as caught:
        plugins.add(module, "foo")
    assert message in str(caught.value)
    assert offered(plugins) == [] and list(plugins) == []


def test_an_optional_hook_of_a_newer_core_is_no_error():
    plugins = Plugins()
    module = plugin("x")
    module.register_novelties = hookimpl(optionalhook=True)(lambda register: None)
    plugins.add(module, "foo")
    assert plugins.find("objective", "foo.x")


def test_a_hook_that_raises_half_way_leaves_nothing():
    def offer(register):
        register("one", "a.b:C")
        raise RuntimeError("no license")

    plugins = Plugins()
    plugins.add(plugin("x"), "bar")
    with pytest.raises(RuntimeError, match="no license"):
        plugins.add(with_hook("register_objectives", offer), "foo")
    assert [item.name for item in offered(plugins)] == ["bar.x"]
    plugins.add(plugin("x"), "foo")  # the name is free again


def test_two_plugins_of_one_name_are_an_error_that_names_both():
    plugins = Plugins()
    plugins.add(plugin("x"), "foo", distribution="one", version="1")
    with pytest.raises(InvalidPlugin, match=r"foo \(one 1\) and foo \(two 2\)"):
        plugins.add(plugin("y"), "foo", distribution="two", version="2")


def test_two_first_party_components_of_one_name_are_an_error_that_names_both():
    plugins = Plugins()
    plugins.add(plugin("clip"), "clip", distribution="vtp-core")
    with pytest.raises(InvalidPlugin, match=r'objective "clip" is offered by both clip .* and other '):
        plugins.add(plugin("clip"), "other", distribution="vtp-core")
    # Another kind may have the same name.
    plugins.add(plugin("clip", hook="register_encoders"), "other", distribution="vtp-core")


@pytest.fixture
def some():
    plugins = Plugins()
    plugins.add(plugin("clip", "l1"), "clip", distribution="vtp-core")
    plugins.add(plugin("ntxent", "byol"), "foo", distribution="vtp-plugin-foo")
    plugins.add(plugin("vit", hook="register_encoders"), "vit", distribution="vtp-core")
    plugins.left_out.append("hidden")
    plugins.failures.append(
        PluginFailure(plugin="broken", distribution="vtp-plugin-broken", version="0.2", reason="No module x")
    )
    return plugins


@pytest.mark.parametrize(
    ("kind", "name", "advice"),
    [
        ("objective", "clipp", 'did you mean "clip"?'),
        ("objective", "ntxent", 'did you mean "foo.ntxent"?'),
        ("objective", "foo.ntxnt", 'did you mean "foo.ntxent"?'),
        ("objective", "foo.zzzzzz", "there are foo.byol, foo.ntxent"),
        ("objective", "zzzzzz", "there are clip, foo.byol, foo.ntxent, l1"),
        ("objective", "fooo.ntxent", 'no plugin "fooo" is installed; did you mean plugin "foo"?'),
        ("objective", "absent.thing", 'no plugin "absent" is installed; try: pip install vtp-plugin-absent'),
        ("objective", "vit", "it is an encoder, not an objective"),
        ("decoder", "vit", "it is an encoder, not a decoder"),
        ("decoder", "zzzzzz", "no installed plugin offers a decoder"),
        ("objective", "hidden.x", 'plugin "hidden" is installed, but VTP_PLUGINS'),
        ("objective", "broken.x", "plugin broken (vtp-plugin-broken 0.2) failed to load: No module x"),
    ],
)
def test_an_unknown_name_says_what_to_do(some, kind, name, advice):
    with pytest.raises(UnknownComponent) as caught:
        some.find(kind, name)
    assert str(caught.value).startswith(f'unknown {kind} "{name}": {advice}')
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_an_unknown_bare_name_mentions_broken_built_ins():
    plugins = Plugins()
    plugins.failures.append(PluginFailure(plugin="losses", distribution="vtp-core", reason="No module lpips"))
    with pytest.raises(UnknownComponent, match=r"plugin losses .* No module lpips"):
        plugins.find("objective", "l1")


def component(target, config=None, kind="objective"):
    plugins = Plugins()
    hook = hookimpl(specname=hook_name(kind))(lambda register: register("x", target, config=config))
    plugins.add(SimpleNamespace(vtp_api=2, offer=hook), "foo", distribution="vtp-plugin-foo", version="0.2")
    return plugins.find(kind, "foo.x")


def test_strings_and_classes_load_alike():
    from vtp_core.objective import Objective

    by_string = component("vtp_core.objective:Objective", "vtp_core.config:ObjectiveConfig")
    by_class = component(Objective, ObjectiveConfig)
    assert by_string.load_target() is by_class.load_target() is Objective
    assert by_string.load_config() is by_class.load_config() is ObjectiveConfig
    assert component(Objective).load_config() is ObjectiveConfig


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (component("no_such_module_here:X"), "no_such_module_here:X failed to import: ModuleNotFoundError"),
        (component("vtp_core.objective:Missing"), "failed to import: AttributeError"),
        (component("vtp_core.encoder:Encoder"), "is not a vtp_core.objective.Objective"),
        (component("vtp_core.objective:Objective.forward"), "is not a vtp_core.objective.Objective"),
        (component("vtp_core.objective:Objective", kind="command"), "is not a click.Command"),
    ],
)
def test_a_target_that_does_not_fit_says_so_with_its_package(item, message):
    with pytest.raises(BrokenComponent) as caught:
        item.load_target()
    assert message in str(caught.value) and '"foo.x" of vtp-plugin-foo 0.2' in str(caught.value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize("config", [ComponentConfig, "vtp_core.view:ViewNeed", "vtp_core.view:union"])
def test_a_config_that_does_not_fit_says_so(config):
    with pytest.raises(BrokenComponent, match=r"is not a vtp_core\.config\.ObjectiveConfig"):
        component("vtp_core.objective:Objective", config).load_config()
