"""Objects in the formats of other tools, out and in: `/v1/export`, `/v1/import`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from inter2former_deploy.annotations.formats import FORMATS, export, import_objects
from inter2former_deploy.annotations.project import Project
from inter2former_deploy.apps.server.catalogue import Catalogue
from inter2former_deploy.apps.server.errors import bad_request
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.core.errors import DatabaseError

PIECE = 1 << 20  # bytes of an archive that are sent at a time
NOTES = "i2f-notes.txt"  # in an archive: what was lost

FormatName: TypeAlias = Annotated[str, Query(alias="format", json_schema_extra={"enum": list(FORMATS)})]


class ImportAnswer(BaseModel):
    """What an import did."""

    objects: int
    notes: list[str]


def router(service: Service, project: Project, catalogue: Catalogue) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["exchange"])

    @routes.get(
        "/v1/export",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def export_objects(
        name: FormatName,
        pictures: Annotated[str, Query(description='An id, or "all".')] = "all",
        polygons: bool = False,
    ) -> StreamingResponse:
        """The objects of all pictures, or of one, as a zip; what the format cannot hold is told in `i2f-notes.txt`."""
        wanted = None if pictures == "all" else [catalogue.source(pictures).id]
        with tempfile.TemporaryDirectory(prefix="i2f-export-") as place:
            folder = Path(place, "export")
            try:
                notes = export(project, name, folder, pictures=wanted, polygons=polygons)
            except ValueError as error:
                raise bad_request(_told(error, place)) from error
            if notes:
                (folder / NOTES).write_text("\n".join(notes) + "\n", encoding="utf-8")
            # Open, it can be read when the folder is gone.
            archive = Path(shutil.make_archive(str(Path(place, "archive")), "zip", folder)).open("rb")  # noqa: SIM115
        headers = {"Content-Disposition": f'attachment; filename="annotations-{name}.zip"'}
        return StreamingResponse(_pieces(archive), media_type="application/zip", headers=headers)

    @routes.post("/v1/import", response_model=ImportAnswer)
    def import_files(
        name: Annotated[str, Form(alias="format", json_schema_extra={"enum": list(FORMATS)})],
        file: Annotated[list[UploadFile], File(min_length=1, max_length=1000)],
    ) -> dict[str, Any]:
        """Objects from files of another tool, or from a zip of them, as start masks on the pictures of their names."""
        with tempfile.TemporaryDirectory(prefix="i2f-import-") as place:
            for sent in file:
                target = Path(place, Path((sent.filename or "").replace("\\", "/")).name or "file")
                with target.open("wb") as written:
                    shutil.copyfileobj(sent.file, written)
            try:
                done = import_objects(project, name, target if len(file) == 1 else Path(place))
            except DatabaseError:
                raise
            except ValueError as error:
                raise bad_request(_told(error, place)) from error
        service.events.send({"type": "pictures"})
        return {"objects": done.objects, "notes": [line.replace(f"{place}/", "") for line in done.notes]}

    return routes


def _told(error: Exception, place: str) -> str:
    """An error without the folder that the files lay in."""
    return str(error).replace(f"{place}/", "").replace(place, "the files")


def _pieces(archive: Any) -> Iterator[bytes]:
    with archive:
        while piece := archive.read(PIECE):
            yield piece
