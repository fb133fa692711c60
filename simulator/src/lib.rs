//! A dstack guest agent for machines without TDX.
