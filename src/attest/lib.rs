//! Evidence to verdict: quote parser, report data, event log replay.
