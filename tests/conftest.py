"""Shape and type annotations are checked at run time, in tests only."""

from jaxtyping import install_import_hook

_HOOK = install_import_hook("undrift", "typechecker.check")
