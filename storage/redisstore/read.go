package redisstore

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
)

// maxGets is the most documents asked for in one pipeline.
const maxGets = 512

// Get reads documents, in the order of keys. It is not one snapshot: each document is read atomically on its own.
func (s *Store) Get(ctx context.Context, keys ...storage.Key) ([]storage.Doc, error) {
	docs := make([]storage.Doc, 0, len(keys))
	for len(keys) > 0 {
		n := min(len(keys), maxGets)
		var err error
		if docs, err = s.get(ctx, docs, keys[:n]); err != nil {
			return nil, fmt.Errorf("get %d documents from redis: %w", n, err)
		}
		keys = keys[n:]
	}
	return docs, nil
}

// get appends the documents of one pipeline to docs.
func (s *Store) get(ctx context.Context, docs []storage.Doc, keys []storage.Key) ([]storage.Doc, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	pipe := s.client.Pipeline()
	cmds := make([]*redis.SliceCmd, len(keys))
	for i, key := range keys {
		cmds[i] = pipe.HMGet(ctx, s.keys.doc(key), fieldRev, fieldData)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	for i, cmd := range cmds {
		doc := storage.Doc{Key: keys[i]}
		if rev, ok := cmd.Val()[0].(string); ok {
			data, _ := cmd.Val()[1].(string)
			doc.Rev, doc.Data = storage.Rev(rev), []byte(data)
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

// Range reads at most limit entries with a score ≤ to that stand behind after, as one snapshot.
func (s *Store) Range(
	ctx context.Context, index storage.Index, after storage.Cursor, to storage.Score, limit int,
) ([]storage.Entry, error) {
	if limit < 1 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ask := func() ([]string, error) {
		cmd := redis.NewStringSliceCmd(ctx, "fcall_ro", functionRange, 1, s.keys.index(index),
			int64(after.Score), after.Member, int64(to), limit)
		_ = s.client.Process(ctx, cmd) // the error is the command's
		return cmd.Result()
	}
	flat, err := ask()
	if isMissing(err) {
		if err = s.load(ctx); err == nil {
			flat, err = ask()
		}
	}
	if err == nil {
		var entries []storage.Entry
		if entries, err = parseEntries(flat); err == nil {
			return entries, nil
		}
	}
	return nil, fmt.Errorf("range over index %q in redis: %w", index, err)
}

// parseEntries reads the pairs member, score. Newer servers print large scores with an exponent; all are whole.
func parseEntries(flat []string) ([]storage.Entry, error) {
	entries := make([]storage.Entry, 0, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		score, err := strconv.ParseFloat(flat[i+1], 64)
		if err != nil {
			return nil, fmt.Errorf("score of %q: %w", flat[i], err)
		}
		entries = append(entries, storage.Entry{Member: flat[i], Score: storage.Score(score)})
	}
	return entries, nil
}

// Count counts the entries with from ≤ score ≤ to, in O(log n).
func (s *Store) Count(ctx context.Context, index storage.Index, from, to storage.Score) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	n, err := s.client.ZCount(ctx, s.keys.index(index), formatScore(from), formatScore(to)).Result()
	if err != nil {
		return 0, fmt.Errorf("count index %q in redis: %w", index, err)
	}
	return int(n), nil
}

func formatScore(score storage.Score) string { return strconv.FormatInt(int64(score), 10) }

// Tail reads the newest n entries of a log, oldest first.
func (s *Store) Tail(ctx context.Context, log storage.Log, n int) ([][]byte, error) {
	if n < 1 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	entries, err := s.client.LRange(ctx, s.keys.log(log), int64(-n), -1).Result()
	if err != nil {
		return nil, fmt.Errorf("tail of log %q in redis: %w", log, err)
	}
	tail := make([][]byte, len(entries))
	for i, entry := range entries {
		tail[i] = []byte(entry)
	}
	return tail, nil
}
