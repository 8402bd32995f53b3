"""What is emitted: tables of attributes, metrics, spans, events and aliases; the single source of every name."""
