//go:build long

package audit

// seeds choose the write that is done wrongly.
var seeds = []uint64{1, 2, 3, 4, 5, 6, 7, 8}
