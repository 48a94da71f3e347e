"""The directions of imports: import-linter checks the floors (`lint-imports`), this file that no circle is left."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_no_module_imports_itself_round_a_circle() -> None:
    """Covers what import-linter leaves out: a package's own `__init__.py`."""
    graph = grimp.build_graph("atrous", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    TopologicalSorter(imports).prepare()  # raises CycleError with the modules of a circle
