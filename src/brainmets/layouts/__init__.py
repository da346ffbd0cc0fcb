"""How public datasets lay out their files: small tables that cite their source, and one reader."""
