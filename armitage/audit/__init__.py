"""What auditors ask of a record: an index, searches, where an artefact comes from, verification."""
