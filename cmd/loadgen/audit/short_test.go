//go:build !long

package audit

// seeds choose the write that is done wrongly.
var seeds = []uint64{1}
