//! Client of the dstack guest agent on its Unix socket.
