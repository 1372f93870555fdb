"""Let the page of `dvc plots show` and `dvc plots diff` (plots_page.html) draw its charts without a network.

DVC's own page loads Vega from a CDN. Ours looks first for the file that this writes.
"""

from pathlib import Path

import vl_convert

LICENCES = Path(__file__).with_name("plots_page_licences.txt")


def install(dvc_dir: Path) -> None:
    """Write Vega, Vega-Lite and Vega-Embed as one script into a clone's `.dvc`, where git ignores it."""
    licences = LICENCES.read_text(encoding="utf-8")
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    script = dvc_dir / "plots" / "vega.js"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"/*\n{licences}*/\n{bundle}", encoding="utf-8")


if __name__ == "__main__":
    install(Path(".dvc").resolve(strict=True))
