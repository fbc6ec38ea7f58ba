//go:build long

package faults_test

import "time"

// engineDown is how long the engine is away while results wait, at its full length.
const engineDown = 30 * time.Second
