"""Make `dvc plots show` and `dvc plots diff` work offline: write the page template and point DVC at it.

DVC's own page loads Vega from a CDN, so without a network its charts stay blank.
"""

import subprocess
import sys
from pathlib import Path

import vl_convert

# DVC's charts are 300 pixels wide: fill the card instead. `symbolSize` makes a dash visible in the legend.
# What is still too wide (confusion matrices side by side) gets its own row.
EMBED = """
const options = {
  renderer: "svg",
  actions: {export: true, source: false, compiled: false, editor: false},
  config: {
    numberFormat: "~g",  // a constant learning rate of 0.001 is not 0
    font: "system-ui, sans-serif",
    title: {fontSize: 16, offset: 14},
    axis: {labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500, gridColor: "#e8eaed"},
    legend: {labelFontSize: 12, titleFontSize: 12, labelLimit: 0, symbolSize: 400},
    view: {stroke: "#d5d9de"},
  },
};
window.vegaEmbed = async (selector, spec) => {
  await vegaEmbed(selector, spec.width ? {...spec, width: "container"} : spec, options);
  const card = document.querySelector(selector);
  if (card.scrollWidth > card.clientWidth) card.style.gridColumn = "1 / -1";
};
"""

LICENCES = """
This page holds Vega, Vega-Lite and Vega-Embed, and with them D3, TopoJSON, Delaunator, node-semver (ISC),
fast-json-patch, lodash.debounce, json-stringify-pretty-compact (MIT) and tslib (0BSD).

Vega:       Copyright (c) 2015-2023, University of Washington Interactive Data Lab
Vega-Lite:  Copyright (c) 2015, University of Washington Interactive Data Lab
Vega-Embed: Copyright (c) 2015, University of Washington Interactive Data Lab
All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted provided
that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions and the
   following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and
   the following disclaimer in the documentation and/or other materials provided with the distribution.

3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or
   promote products derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED
WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT OWNER OR CONTRIBUTORS BE LIABLE FOR ANY
DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO,
PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION)
HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING
NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE
POSSIBILITY OF SUCH DAMAGE.
"""

# DVC styles its picture frames inline, which only `!important` can change.
STYLE = """
body { margin: 0 auto; max-width: 84rem; padding: 1.5rem; background: #f5f6f8; color: #1f2328;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 1rem; font-size: 1.5rem; font-weight: 600; }
main { display: grid; gap: 1rem; grid-auto-flow: dense;
       grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); }
main > div { box-sizing: border-box; min-width: 0; padding: 1rem !important; overflow: auto !important;
             background: #fff; border: 1px solid #d5d9de !important; border-radius: 8px; }
main > div.vega-embed { display: block; padding-right: 2.5rem !important; }
main > div:has(img) { grid-column: 1 / -1; display: flex; flex-wrap: wrap; white-space: normal !important; }
main > div > div:has(> img) { flex: 1 1 30rem; border: 0 !important; margin: 0 !important; }
main p { margin: 0 0 0.5rem; color: #57606a; font-size: 0.875rem; }
main > div > p { flex-basis: 100%; color: #1f2328; font-size: 1rem; font-weight: 600; }
img { max-width: 100%; height: auto; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ResNet50 on CIFAR-10: plots</title>
<!--{licences}-->
<style>{style}</style>
<script>{script}</script>
</head>
<body>
<h1>ResNet50 on CIFAR-10</h1>
<main>
{{plot_divs}}
</main>
</body>
</html>
"""


def install(dvc_dir: Path) -> None:
    """Write the template and name it in `config.local`.

    Not in the committed config: where the named file is missing, DVC fails instead of using its own page.
    The path is absolute because DVC copies `config.local`, and not the template, into the folders of
    `dvc exp run --temp` and of the queue.
    """
    template = dvc_dir / "plots" / "page.html"
    script = vl_convert.javascript_bundle(EMBED)
    template.parent.mkdir(exist_ok=True)
    template.write_text(PAGE.format(licences=LICENCES, style=STYLE, script=script), encoding="utf-8")
    setting = ["config", "--local", "plots.html_template", str(template)]
    subprocess.run([sys.executable, "-m", "dvc", *setting], cwd=dvc_dir.parent, check=True)


if __name__ == "__main__":
    install(Path(".dvc").resolve(strict=True))
