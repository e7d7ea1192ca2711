"""A hospital: its manifest, its pixels and its patient-disjoint splits."""
