"""Data that ships inside the package; :mod:`danlu.data.catalog` holds its checksums, licence and citation."""
