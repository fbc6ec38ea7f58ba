package redisstore

import (
	"context"
	_ "embed" // for opscore.lua
	"fmt"
	"strings"
)

// library is the Lua source of the server-side functions.
//
//go:embed opscore.lua
var library string

// The functions of the library. The version is part of the names; a test holds the source to it.
const (
	functionCommit = "opscore_v1_commit"
	functionRange  = "opscore_v1_range"
)

// load brings the library to the server. Doing it again, or by several replicas at once, changes nothing.
func (s *Store) load(ctx context.Context) error {
	if err := s.client.FunctionLoadReplace(ctx, library).Err(); err != nil {
		return fmt.Errorf("load the function library: %w", err)
	}
	return nil
}

// isMissing reports whether the server answered that it does not have the library.
func isMissing(err error) bool {
	return isAnswer(err) && strings.Contains(err.Error(), "Function not found")
}
