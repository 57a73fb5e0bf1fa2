"""New plugins: what `ruvattn new-plugin` writes, and what it takes for the name of one.

    check_plugin_name ─► plugin_files: templates, laid over each other ─► write_plugin ─► NAME/, whole or not at all

    names.py       what a plugin may be called
    writing.py     from templates to files
    templates/     common/                  what every plugin has
                   cython/                  setup.py
                   score/ pattern/ variant/ source and tests of each kind
                   score-cython/ …          what is compiled of it

A template is a file as it will be, for a plugin that is called plugin-name, its module plugin_name; what it registers is called registered-name, its
function registered_name…, its classes PluginName…. Dots in front of names are left out. A line that ends in the comment ``# only cython``, or
``# only score cython`` where it takes both, is for those plugins; a line that is nothing but that comment begins lines that are, and ``# end only``
ends them.
"""

from __future__ import annotations

from .names import check_plugin_name
from .writing import KINDS, plugin_files, write_plugin

__all__ = ["KINDS", "check_plugin_name", "plugin_files", "write_plugin"]
