package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Limits of the embedded server. All are set, because the server would take most of the machine otherwise.
const (
	embeddedMaxMemory  = 64 << 20
	embeddedMaxPayload = 1 << 20
	embeddedMinStore   = 256 << 20 // of a disk that is nearly full
	embeddedStart      = 30 * time.Second
)

// EmbeddedSync is how often an embedded server syncs its files: a loss of power takes what was acknowledged since.
const EmbeddedSync = time.Second

// EmbeddedConfig says where an embedded server stores and listens.
type EmbeddedConfig struct {
	// Dir holds the streams. One server at a time may use it; a lock on Dir/LOCK sees to that.
	Dir string
	// Addr is the address to listen on, as host:port; port 0 or -1 means any free one. Empty: no listener, only this process
	// can connect.
	Addr string
	// Log gets the server's warnings and errors, and its other lines at debug level. Nil logs nothing.
	Log *slog.Logger
	// MaxStore is how many bytes JetStream may use. 0: no limit but those of the streams, which are made for three
	// quarters of the disk space that is free when they are created.
	MaxStore int64
}

// Embedded is a NATS server in this process. Connect to it with [Config].InProcess, or by its URL.
type Embedded struct {
	server   *server.Server
	lock     *os.File
	log      *serverLog
	maxStore int64
}

var _ nats.InProcessConnProvider = (*Embedded)(nil)

// StartEmbedded starts a server and waits until it takes connections. A taken address gives an error that names it and wraps
// syscall.EADDRINUSE; a directory that another server uses gives one that wraps [ErrLocked].
func StartEmbedded(cfg EmbeddedConfig) (*Embedded, error) {
	if cfg.Dir == "" {
		return nil, errors.New("bus: the embedded server needs a directory")
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("bus: directory of the embedded server: %w", err)
	}
	lock, err := lockFile(filepath.Join(cfg.Dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("bus: directory %s of the embedded server: %w", cfg.Dir, err)
	}
	e := &Embedded{lock: lock, log: newServerLog(cfg.Log), maxStore: cfg.MaxStore}
	if e.maxStore == 0 {
		e.maxStore = max(freeBytes(cfg.Dir)/4*3, embeddedMinStore)
	}
	if err := e.start(cfg); err != nil {
		e.Shutdown()
		return nil, fmt.Errorf("bus: embedded server: %w", err)
	}
	return e, nil
}

func (e *Embedded) start(cfg EmbeddedConfig) error {
	opts := &server.Options{
		ServerName:             "opscore",
		NoSigs:                 true, // or it would end the process on SIGTERM before anything is drained
		JetStream:              true,
		StoreDir:               cfg.Dir,
		SyncInterval:           EmbeddedSync,
		JetStreamMaxMemory:     embeddedMaxMemory,
		JetStreamMaxStore:      cfg.MaxStore,
		MaxPayload:             embeddedMaxPayload,
		DisableJetStreamBanner: true,
		DontListen:             cfg.Addr == "",
	}
	if cfg.MaxStore == 0 {
		opts.JetStreamMaxStore = 1 << 50 // 0 would mean the space that is free now, at each start another limit
	}
	if cfg.Addr != "" {
		var err error
		if opts.Host, opts.Port, err = listenAddress(cfg.Addr); err != nil {
			return err
		}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	e.server = s
	s.SetLoggerV2(e.log, false, false, false)
	s.Start()
	if !s.ReadyForConnections(embeddedStart) || e.log.fatal() != nil {
		return errors.Join(errors.New("it did not start"), e.log.fatal())
	}
	return nil
}

// listenAddress splits an address and tries it, because the server would only write a line about one that is taken.
func listenAddress(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: %w", addr, err)
	}
	if port, err = strconv.Atoi(p); err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("address %q: the port is not a number from 0 to 65535", addr)
	}
	if port <= 0 {
		return host, server.RANDOM_PORT, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return "", 0, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	return host, port, l.Close()
}

// InProcessConn opens a connection without a network; it makes Embedded a nats.InProcessConnProvider.
func (e *Embedded) InProcessConn() (net.Conn, error) { return e.server.InProcessConn() }

// URL is where other processes connect, empty without a listener.
func (e *Embedded) URL() string {
	if e.server.Addr() == nil {
		return ""
	}
	return e.server.ClientURL()
}

// Healthy returns nil if the server and its streams work. A full or failing disk shows here; the server must then be restarted.
func (e *Embedded) Healthy() error {
	if err := e.log.fatal(); err != nil {
		return fmt.Errorf("bus: embedded server: %w", err)
	}
	if h := e.server.Healthz(nil); h.StatusCode != 200 {
		return fmt.Errorf("bus: embedded server: %s: %s", h.Status, h.Error)
	}
	return nil
}

// Shutdown stops the server, waits until it has written everything, and releases the directory. Close the connections first.
func (e *Embedded) Shutdown() {
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
	// Closing releases the lock; the file stays, as removing it would let two servers lock two files of the same name.
	if err := e.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		e.log.Errorf("release the directory: %v", err)
	}
}

// RemoveData removes the folder of a server that was shut down. The server may still write a file or two into it for a moment after it has said that it is
// down, so removing is tried again for a second.
func RemoveData(dir string) error {
	for try := 1; ; try++ {
		err := os.RemoveAll(dir)
		if err == nil || try == 20 {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// serverLog writes the server's lines to slog.
type serverLog struct {
	log  *slog.Logger
	died atomic.Pointer[error]
}

var _ server.Logger = (*serverLog)(nil)

func newServerLog(l *slog.Logger) *serverLog {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return &serverLog{log: l.With("component", "nats-server")}
}

// fatal returns what the server called fatal. It does not end the process then, so this has to be asked.
func (l *serverLog) fatal() error {
	if p := l.died.Load(); p != nil {
		return *p
	}
	return nil
}

func (l *serverLog) write(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, strings.TrimSpace(fmt.Sprintf(format, v...)))
	}
}

func (l *serverLog) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.write(slog.LevelWarn, format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.write(slog.LevelError, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.write(slog.LevelDebug, format, v) }
func (l *serverLog) Tracef(format string, v ...any)  { l.write(slog.LevelDebug, format, v) }

func (l *serverLog) Fatalf(format string, v ...any) {
	err := fmt.Errorf(format, v...)
	l.died.CompareAndSwap(nil, &err)
	l.write(slog.LevelError, format, v)
}
