"""The first schema: pictures, files, classes, objects."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "pictures",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
    )
    op.create_table(
        "files",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("modified", sa.BigInteger, nullable=False),
        sa.Column("picture", sa.String(32), sa.ForeignKey("pictures.id"), nullable=False),
    )
    op.create_table(
        "classes",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("classes", sa.JSON, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("changed", sa.String(32), nullable=False),
    )
    op.create_table(
        "objects",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("picture", sa.String(32), sa.ForeignKey("pictures.id"), nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("class", sa.Text, nullable=False),
        sa.Column("order", sa.Float, nullable=False),
        sa.Column("hidden", sa.Boolean, nullable=False),
        sa.Column("locked", sa.Boolean, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("changed", sa.String(32), nullable=False),
        sa.Column("region", sa.JSON),
        sa.Column("prompts", sa.JSON, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
    )
    op.create_index("objects_of_picture", "objects", ["picture", "id", "version"])
