package storagetest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// redisStartTimeout is how long a server may take to answer, which includes reading its append-only file.
const redisStartTimeout = 10 * time.Second

// RedisServer is a redis-server process of one test. It persists like a production server: append-only file, synced
// every second, so an answered write survives [RedisServer.Kill].
type RedisServer struct {
	t    testing.TB
	dir  string
	port int
	cmd  *exec.Cmd
	gone chan struct{} // closed when the process has ended
}

// StartRedis starts a redis-server from PATH on a free port of the loopback interface and waits until it answers. The
// test fails if there is none: a suite that skips silently proves nothing. The server is stopped when the test ends.
func StartRedis(t testing.TB) *RedisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatalf("this test needs a Redis server; install one, for example with: apt-get install redis-server (%v)", err)
	}
	s := &RedisServer{t: t, dir: t.TempDir()}
	t.Cleanup(s.Kill)
	const attempts = 5 // another process may take the port between our look and the server's start
	for range attempts {
		s.port = freePort(t)
		if s.start() {
			return s
		}
	}
	t.Fatalf("redis-server did not start; its log:\n%s", s.log())
	return nil
}

// Addr is the server's host:port.
func (s *RedisServer) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// URL is the storage URL of the server's database 0.
func (s *RedisServer) URL() string { return "redis://" + s.Addr() + "/0" }

// Dir is the folder with the server's files.
func (s *RedisServer) Dir() string { return s.dir }

// Kill ends the process at once, as kill -9 does, and waits until it is gone. Killing it twice is no error.
func (s *RedisServer) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.gone
	s.cmd = nil
}

// Restart kills the process, if it still runs, and starts it again with the same files and the same port.
func (s *RedisServer) Restart() {
	s.t.Helper()
	s.Kill()
	if !s.start() {
		s.t.Fatalf("redis-server did not start again; its log:\n%s", s.log())
	}
}

// start starts the process and reports whether it answers.
func (s *RedisServer) start() bool {
	s.t.Helper()
	cmd := exec.Command("redis-server", "--port", fmt.Sprint(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--logfile", filepath.Join(s.dir, "redis.log"))
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = cmd.Wait() // a killed process is what tests want
	}()
	s.cmd, s.gone = cmd, gone

	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(redisStartTimeout)
	for !s.answers() {
		select {
		case <-poll.C:
		case <-gone:
			s.cmd = nil
			return false
		case <-deadline:
			s.Kill()
			return false
		}
	}
	return true
}

// answers reports whether the server is there and has read its files.
func (s *RedisServer) answers() bool {
	line, err := s.say("PING")
	return err == nil && strings.HasPrefix(line, "+PONG")
}

// Do sends one command in Redis' inline form, as in Do("FLUSHALL"), and fails the test unless it succeeds.
func (s *RedisServer) Do(command string) {
	s.t.Helper()
	if line, err := s.say(command); err != nil || strings.HasPrefix(line, "-") {
		s.t.Fatalf("redis: %s: %q %v", command, line, err)
	}
}

// say sends one command and returns the first line of the answer.
func (s *RedisServer) say(command string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// log returns what the server logged.
func (s *RedisServer) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "redis.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// freePort returns a port of the loopback interface that was free a moment ago. It lies below the range from which
// systems give ports to outgoing connections: one of those could hold it when the server starts again.
func freePort(t testing.TB) int {
	t.Helper()
	const first, last, attempts = 20_000, 30_000, 100
	var err error
	for range attempts {
		port := first + rand.IntN(last-first)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatalf("find a free port: %v", err)
	return 0
}
