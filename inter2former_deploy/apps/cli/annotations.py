"""`i2f annotations`: objects that people drew, in the formats of other tools."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inter2former_deploy.core.packages import ANNOTATION_MODULES, require

if TYPE_CHECKING:
    from inter2former_deploy.annotations.project import Project

app = typer.Typer(
    help="Objects that were drawn with i2f annotate, in the formats of other tools.", no_args_is_help=True
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="DB-or-FOLDER",
        help="Folder of pictures that was annotated, or the database: a file, sqlite:///PATH or "
        "postgresql://USER@HOST/NAME.",
        show_default=False,
    ),
]
FormatName = Annotated[str, typer.Option("--format", metavar="F", help="i2f annotations formats lists them.")]


@app.command("export")
def export(
    source: Source,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder to write, new or empty.", show_default=False)
    ],
    format_name: FormatName,
    polygons: Annotated[bool, typer.Option("--polygons", help="Polygons instead of masks: coco, labelme.")] = False,
    image_root: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Put before the names of pictures in tasks of Label Studio, such as /data/local-files/?d=photos/",
            show_default=False,
        ),
    ] = "",
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database of the folder, if it is not in the folder.", show_default=False),
    ] = None,
) -> None:
    """Write all objects in a format. What the format cannot hold is said, a line each.

    \b
    Example:
      i2f annotations export photos/ --format coco -o exported
    """  # noqa: D301 - the backspace keeps the example on its lines
    require(*ANNOTATION_MODULES, extra="serve", needed_by="i2f annotations")
    from inter2former_deploy.annotations import formats
    from inter2former_deploy.core.files import check_new_folder

    check_new_folder(output, "--output")
    with closing(_open(source, database)) as project:
        pictures = project.pictures()
        notes = formats.export(project, format_name, output, polygons=polygons, image_root=image_root)
    typer.echo(f"{output}: {sum(picture.objects for picture in pictures)} objects on {len(pictures)} pictures")
    for note in notes:
        typer.echo(f"i2f: note: {note}", err=True)


@app.command("import")
def import_(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the pictures.", show_default=False, file_okay=False)
    ],
    annotations: Annotated[
        Path, typer.Argument(metavar="ANNOTATIONS", help="A file, a folder, or a zip of one.", show_default=False)
    ],
    format_name: FormatName,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database to add to, if it is not in the folder.", show_default=False),
    ] = None,
) -> None:
    """Add objects of another tool as start masks, to go on from. What is there already is not added again.

    \b
    Example:
      i2f annotations import photos/ instances.json --format coco
    """  # noqa: D301 - the backspace keeps the example on its lines
    require(*ANNOTATION_MODULES, extra="serve", needed_by="i2f annotations")
    from inter2former_deploy.annotations import formats
    from inter2former_deploy.annotations.project import Project

    with closing(Project.open(database, folder)) as project:
        _scan(project)
        done = formats.import_objects(project, format_name, annotations)
    typer.echo(f"{project.name}: {done.objects} new objects")
    for note in done.notes:
        typer.echo(f"i2f: note: {note}", err=True)


@app.command("formats")
def formats_() -> None:
    """List the formats, and what each cannot hold."""
    require(*ANNOTATION_MODULES, extra="serve", needed_by="i2f annotations")
    from inter2former_deploy.annotations.formats import FORMATS

    for entry in FORMATS.values():
        ways = "export, import" if entry.reads else "export"
        polygons = "; --polygons" if entry.polygons else ""
        typer.echo(f"{entry.name:<13} {entry.title} ({ways}{polygons})")
        if entry.loss:
            typer.echo(f"{'':<13} not: {entry.loss}")


def _open(source: str, database: str | None) -> Project:
    """A project that is there: of a folder, a database's file, or a URL."""
    from inter2former_deploy.annotations.database import url_of_file
    from inter2former_deploy.annotations.project import Project

    if "://" in source:
        return Project.open(source, create=False)
    path = Path(source)
    if path.is_dir():
        project = Project.open(database, path, create=False)
        _scan(project)
        return project
    if not path.exists():
        raise ValueError(f"there is no folder or database {source}")
    return Project.open(url_of_file(path), create=False)


def _scan(project: Project) -> None:
    """Find the pictures; those that cannot be read are named."""
    from inter2former_deploy.annotations.project import Skipped
    from inter2former_deploy.core.pictures import NO_PICTURE

    for entry in project.scan():
        if isinstance(entry, Skipped) and entry.reason != NO_PICTURE:
            typer.echo(f"skipped: {entry.name}: {entry.reason}", err=True)
