package bus

import "errors"

// ErrLocked says that another process, or another server in this one, uses a directory.
var ErrLocked = errors.New("it is in use by another server")
