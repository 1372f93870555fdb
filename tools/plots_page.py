"""Set up a clone's `.dvc`: a plots page that needs no network, and a cache that no other user can write to.

DVC's own page loads Vega from a CDN. Ours (plots_page.html) looks first for the file that this writes.
DVC unpickles what is in its site cache, by default a folder that every user can write to (CVE-2025-69872).
"""

from pathlib import Path

import vl_convert

from cifar_resnet.process import command
from tools.scratch import configure

LICENCES = Path(__file__).with_name("plots_page_licences.txt")


def install(dvc_dir: Path) -> None:
    """Write what git ignores: Vega, Vega-Lite and Vega-Embed as one script; the place of the site cache."""
    licences = LICENCES.read_text(encoding="utf-8")
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    script = dvc_dir / "plots" / "vega.js"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"/*\n{licences}*/\n{bundle}", encoding="utf-8")
    site = dvc_dir / "tmp/site"
    site.mkdir(parents=True, exist_ok=True)
    site.chmod(0o700)  # DVC lets everyone write to the folders below
    configure(dvc_dir, "core", "site_cache_dir", str(site))


if __name__ == "__main__":
    with command.one_line():
        install(Path(".dvc").resolve(strict=True))
