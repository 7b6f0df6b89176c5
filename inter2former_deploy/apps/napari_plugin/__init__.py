"""napari: points on an image layer become objects of a labels layer (`napari.yaml` names the widget)."""
