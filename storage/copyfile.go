package storage

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"strings"
)

// A copy file is one line of text, which names the format, and then a gzip stream of records: each a length and so many bytes, of which the first is the
// kind. Strings in a record are preceded by their length; all numbers are uvarints. The last record counts the items and holds the SHA-256 of
// everything before it, so that a file which is not whole is not taken for one.
const copyFormat = "opscore-backup 1\n"

const (
	recordDoc   = 'd' // key, revision, data
	recordIndex = 'i' // name, then member and score of each entry
	recordLog   = 'l' // name, then each line
	recordEnd   = 'e' // number of items, checksum
)

// maxRecord bounds what a damaged length can make a reader allocate.
const maxRecord = 256 << 20

// ErrDamaged says that a copy file is not what was written.
var ErrDamaged = errors.New("storage: the copy is damaged or not whole")

// WriteCopy writes everything that a store holds to w, as it is at one moment, and returns how many items that were.
func WriteCopy(ctx context.Context, store Copied, w io.Writer) (items int, err error) {
	if _, err := io.WriteString(w, copyFormat); err != nil {
		return 0, fmt.Errorf("write the copy: %w", err)
	}
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed) // writes wait for it
	if err != nil {
		return 0, err
	}
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(packed, sum), 64<<10)
	var b []byte
	write := func(record []byte) error {
		var length [binary.MaxVarintLen64]byte
		_, err := out.Write(binary.AppendUvarint(length[:0], uint64(len(record))))
		if err == nil {
			_, err = out.Write(record)
		}
		if err != nil {
			return fmt.Errorf("write the copy: %w", err)
		}
		return nil
	}
	err = store.Snapshot(ctx, func(item Item) error {
		items++
		b = appendItem(b[:0], &item)
		return write(b)
	})
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return 0, err
	}
	end := sum.Sum(binary.AppendUvarint([]byte{recordEnd}, uint64(items)))
	if err := write(end); err != nil {
		return 0, err
	}
	return items, errors.Join(out.Flush(), packed.Close())
}

// ReadCopy reads the items of a copy. Its last pair has an error wrapping ErrDamaged unless the copy was whole.
func ReadCopy(r io.Reader) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if err := readCopy(r, func(item Item) bool { return yield(item, nil) }); err != nil {
			yield(Item{}, err)
		}
	}
}

// CheckCopy reads a copy to its end, and returns how many items it holds.
func CheckCopy(r io.Reader) (items int, err error) {
	err = readCopy(r, func(Item) bool {
		items++
		return true
	})
	return items, err
}

func readCopy(r io.Reader, take func(Item) bool) error {
	in := bufio.NewReader(r)
	line, err := in.ReadString('\n')
	if err != nil || line != copyFormat {
		if strings.HasPrefix(line, "opscore-backup ") {
			return fmt.Errorf("%w: it has the format %q, this version reads %q", ErrDamaged, strings.TrimSpace(line), strings.TrimSpace(copyFormat))
		}
		return fmt.Errorf("%w: it is no backup of Ops-Core", ErrDamaged)
	}
	unpacked, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	unpacked.Multistream(false)
	records := recordReader{in: bufio.NewReaderSize(unpacked, 64<<10), sum: sha256.New()}
	for n := uint64(0); ; n++ {
		record, err := records.next()
		if err != nil {
			return fmt.Errorf("%w: it ends or breaks behind item %d: %w", ErrDamaged, n, err)
		}
		if record[0] == recordEnd {
			count, rest, ok := takeNumber(record[1:])
			if _, err := records.in.ReadByte(); !ok || count != n || !bytes.Equal(rest, records.sum.Sum(nil)) || err != io.EOF {
				return fmt.Errorf("%w: its checksum does not fit", ErrDamaged)
			}
			return nil
		}
		item, ok := parseItem(record)
		if !ok {
			return fmt.Errorf("%w: item %d makes no sense", ErrDamaged, n)
		}
		if !take(item) {
			return nil
		}
	}
}

// recordReader reads records and sums them up, but the last.
type recordReader struct {
	in  *bufio.Reader
	sum hash.Hash
}

func (r *recordReader) next() ([]byte, error) {
	length, err := binary.ReadUvarint(r.in)
	if err != nil {
		return nil, err
	}
	if length == 0 || length > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes", length)
	}
	// No more than a little is set aside for what a length only says.
	var record bytes.Buffer
	if _, err := io.CopyN(&record, r.in, int64(length)); err != nil {
		return nil, err
	}
	if record.Bytes()[0] != recordEnd {
		var head [binary.MaxVarintLen64]byte
		r.sum.Write(binary.AppendUvarint(head[:0], length))
		r.sum.Write(record.Bytes())
	}
	return record.Bytes(), nil
}

func appendItem(b []byte, item *Item) []byte {
	switch {
	case item.Doc.Key != "":
		b = append(b, recordDoc)
		b = appendText(b, item.Doc.Key)
		b = appendText(b, item.Doc.Rev)
		return append(b, item.Doc.Data...)
	case item.Log != "":
		b = appendText(append(b, recordLog), item.Log)
		for _, line := range item.Lines {
			b = appendText(b, line)
		}
		return b
	}
	b = appendText(append(b, recordIndex), item.Index)
	for _, e := range item.Entries {
		b = binary.AppendUvarint(appendText(b, e.Member), uint64(e.Score))
	}
	return b
}

func appendText[T ~string | ~[]byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// parseItem reads a record that is not the last.
func parseItem(record []byte) (item Item, ok bool) {
	name, rest, ok := takeText(record[1:])
	if !ok || len(name) == 0 {
		return item, false
	}
	switch record[0] {
	case recordDoc:
		var rev []byte
		rev, rest, ok = takeText(rest)
		item.Doc = Doc{Key: Key(name), Rev: Rev(rev), Data: rest}
		return item, ok
	case recordLog:
		item.Log = Log(name)
		for len(rest) > 0 && ok {
			var line []byte
			line, rest, ok = takeText(rest)
			item.Lines = append(item.Lines, line)
		}
		return item, ok
	case recordIndex:
		item.Index = Index(name)
		for len(rest) > 0 && ok {
			var member []byte
			var score uint64
			if member, rest, ok = takeText(rest); ok {
				score, rest, ok = takeNumber(rest)
			}
			item.Entries = append(item.Entries, Entry{Member: string(member), Score: Score(score)})
		}
		return item, ok
	}
	return item, false
}

func takeNumber(b []byte) (n uint64, rest []byte, ok bool) {
	n, used := binary.Uvarint(b)
	if used <= 0 {
		return 0, nil, false
	}
	return n, b[used:], true
}

func takeText(b []byte) (text, rest []byte, ok bool) {
	n, rest, ok := takeNumber(b)
	if !ok || n > uint64(len(rest)) {
		return nil, nil, false
	}
	return rest[:n:n], rest[n:], true
}
