"""How an event travels: clock, ids, event, bus, context, sanitising."""
