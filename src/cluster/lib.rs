//! Who is here, who leads: detector, bully, ballots, muting.
