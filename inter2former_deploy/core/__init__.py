"""What every other part stands on: files of a bundle, manifest, label maps, pictures, masks, errors. No torch here."""
