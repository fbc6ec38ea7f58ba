package redisstore

import "context"

// Warnings says which settings of the server may lose data, for the operator to read at start-up. A server that does not tell its settings
// gives none.
func (s *Store) Warnings(ctx context.Context) []string {
	info, err := s.client.Info(ctx, "persistence", "memory").Result()
	if err != nil {
		return nil
	}
	setting := fieldsOf(info)
	var warnings []string
	if setting["aof_enabled"] == "0" {
		warnings = append(warnings, "Redis runs without its append-only file: a restart loses what was stored since its last snapshot; set appendonly yes")
	}
	if policy := setting["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		warnings = append(warnings, "Redis may evict documents (maxmemory-policy "+policy+"); set maxmemory-policy noeviction")
	}
	return warnings
}
