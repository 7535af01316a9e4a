"""Run docs/tutorial.ipynb and store its outputs in it, with reduced pictures.

    pip install nbclient ipykernel
    python tools/run_tutorial.py

Needed after a change of a cell; tests run the cells as well, without these packages.
"""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from ita.files import write_atomically

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"
MAX_WIDTH, JPEG_QUALITY = 640, 80


def main() -> int:
    """Run the notebook in a temporary folder."""
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm, without ipywidgets
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        ).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                # Alone, although Jupyter stores other forms of some pictures too.
                output.data = reduce_picture(output.data["image/png"])
    notebook.metadata.language_info = {"name": "python"}
    write_atomically(NOTEBOOK, f"{nbformat.writes(notebook)}\n".encode())
    return 0


def reduce_picture(encoded: str) -> dict[str, str]:
    """Reduce a PNG in base64 to at most ``MAX_WIDTH`` pixels, as the smaller one of two formats.

    Returns:
        MIME type -> the picture in base64.
    """
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    image.thumbnail((MAX_WIDTH, MAX_WIDTH))
    files = {}
    for name in ("png", "jpeg"):
        buffer = io.BytesIO()
        image.save(buffer, name, optimize=True, quality=JPEG_QUALITY)
        files[f"image/{name}"] = base64.b64encode(buffer.getvalue()).decode()
    smaller = min(files, key=lambda name: len(files[name]))
    return {smaller: files[smaller]}


if __name__ == "__main__":
    sys.exit(main())
