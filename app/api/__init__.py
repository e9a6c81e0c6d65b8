"""The faces of OwnUp: one folder each, with its routes, schemas, success body and error body."""
