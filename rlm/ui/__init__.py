"""What a person sees: text made safe, a console that is the only writer, events drawn, the trace told."""
