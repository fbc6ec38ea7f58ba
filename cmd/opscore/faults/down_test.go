//go:build !long

package faults_test

import "time"

// engineDown is how long the engine is away while results wait: longer than the time to accept and the lease.
const engineDown = 12 * time.Second
