"""Let ``import torchvision`` pass beside a torch for which its compiled operators were not built.

The package index serves a torchvision wheel built against CUDA. Beside a CPU-only torch its shared library
does not load. torchvision itself tolerates that: ``torchvision.extension._has_ops()`` is then False, and its
Python half, the image transforms, works. But two unconditional ``torch.library.register_fake`` calls in
``torchvision._meta_registrations`` name operators that do not exist, and the import ends with ``operator
torchvision::nms does not exist``.

This one file has two roles:

* run as a script, it checks ``import torchvision`` and, only when that fails, copies itself with a ``.pth``
  file into the site-packages of the interpreter that runs it;
* imported from that ``.pth`` at interpreter start, it puts one finder on ``sys.meta_path`` and does nothing
  else. Torch is not imported; the finder wakes up once, for ``torchvision._meta_registrations``.

It repairs development environments only and is never part of the wheel.
"""

import sys

TARGET = "torchvision._meta_registrations"
MODULE = "torchvision_without_ops"


class _Finder:
    """Meta-path finder that answers for `TARGET` only, and wraps the loader of the real module."""

    def find_spec(self, name, path=None, target=None):
        if name != TARGET:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run_module = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _without_fake_operators(run_module, module)
        return spec


def _without_fake_operators(run_module, module):
    """Run the module's code, without its fake operators where there are no real ones."""
    import torch.library
    import torchvision.extension

    if torchvision.extension._has_ops():
        run_module(module)
        return
    register_fake = torch.library.register_fake

    def skip_torchvision(op, func=None, /, **options):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return func if func is not None else lambda fake: fake
        return register_fake(op, func, **options)

    torch.library.register_fake = skip_torchvision
    try:
        run_module(module)
    finally:
        torch.library.register_fake = register_fake


def main() -> int:
    """Repair the running interpreter's environment if, and only if, it needs it. Returns the exit status."""
    import shutil
    import subprocess
    import sysconfig
    from pathlib import Path

    def import_error() -> str:
        command = [sys.executable, "-c", "import torchvision"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stderr.strip() if done.returncode else ""

    if not import_error():
        return 0
    site_packages = Path(sysconfig.get_path("purelib"))
    written = [site_packages / f"{MODULE}.py", site_packages / f"{MODULE}.pth"]
    shutil.copyfile(__file__, written[0])
    written[1].write_text(f"import {MODULE}\n")
    if error := import_error():
        for path in written:
            path.unlink()
        print(f"torchvision cannot be imported, and not for want of its operators:\n{error}", file=sys.stderr)
        return 1
    print(
        f"torchvision has no operators compiled for this torch; {written[1]} makes its transforms importable"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
elif __name__ == MODULE:
    sys.meta_path.insert(0, _Finder())
