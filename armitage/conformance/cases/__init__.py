"""The cases, by the part of the API that they are about; each module registers its own."""
