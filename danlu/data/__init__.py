"""Read, check and describe data: formats, catalogue, decoding, doctor, splits and the loader. Imports no torch."""
