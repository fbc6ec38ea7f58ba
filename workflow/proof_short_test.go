//go:build !long

package workflow

// scenesPlayed is how many scenes are played.
const scenesPlayed = 12
