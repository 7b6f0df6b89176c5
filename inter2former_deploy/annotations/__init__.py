"""What people draw, and how it is kept: masks, the database, formats of other tools. No web, no model."""
