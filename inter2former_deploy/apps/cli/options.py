"""Options that more than one command has, so that they mean the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads to use; as many as usable CPUs if not given.", show_default=False),
]
CustomOps = Annotated[
    bool, typer.Option(help="Use the fast operator library, or plain onnxruntime: same masks, slower.")
]
CompareCustomOps = Annotated[bool, typer.Option(help="Compare with the operator library, too.")]
ConvertColours = Annotated[
    bool,
    typer.Option(
        help="Convert colours to sRGB by the picture's profile, as browsers do, or take them as they are, as the "
        "evaluation of the release does."
    ),
]
Decoder = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Which of the bundle's decoders (i2f info); the first if not given.", show_default=False
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Refuse pictures of more pixels; 536,870,912 if not given.", show_default=False
    ),
]
