"""The hook that plugins implement, and the pluggy manager that calls it.

A plugin is a module, or another object, that an entry point of the group ``ruvattn`` names. It holds two things:

* ``RUVATTN_API``: the version of this interface that it was written for;
* ``ruvattn_register``: a function that is the hook below, recognised by its name. The decorator `hookimpl` is
  allowed and not needed.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .registry import Registry

__all__ = ["hookimpl", "hookspec", "make_manager", "ruvattn_register"]

hookspec = pluggy.HookspecMarker("ruvattn")
hookimpl = pluggy.HookimplMarker("ruvattn")


@hookspec
def ruvattn_register(registry: Registry) -> None:
    """Enter the plugin's variants, scores, patterns, aggregates, manifolds and demonstrations into the registry.

    Called once, when a listing or a name that is not built in is first asked for. If it raises, none of what it
    entered counts and the plugin is listed as failed.

    Parameters
    ----------
    registry : ruvattn.registry.Registry
        Takes the names; closed when the hook returns.
    """


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        options: Any = super().parse_hookimpl_opts(plugin, name)
        if options is None and name == "ruvattn_register" and inspect.isroutine(getattr(plugin, name, None)):
            options = {}
        return options


def make_manager() -> pluggy.PluginManager:
    """Return a new manager that knows the hook and no plugin.

    Returns
    -------
    pluggy.PluginManager
        Recognises ``ruvattn_register`` by its name as well as by the marker.
    """
    import sys

    manager = _Manager("ruvattn")
    manager.add_hookspecs(sys.modules[__name__])
    return manager
