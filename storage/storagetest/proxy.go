package storagetest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and a TCP server and does to their connections what a network does. It knows nothing
// of the protocol: a reply is whatever the server sends.
//
// A new Proxy only passes bytes on. Its methods are safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[*link]bool
	lose   loss
	pass   int // replies to let pass before the next one is lost
	refuse bool
	delay  time.Duration
	lost   int
	closed bool
}

// loss says which replies are lost.
type loss int

const (
	loseNone loss = iota
	loseNext
	loseAll
)

// NewProxy starts a proxy to a server's host:port. It ends, with all its connections, when the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	p := &Proxy{target: target, listener: listener, conns: make(map[*link]bool)}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = listener.Close()
		p.Cut()
		p.running.Wait()
	})
	return p
}

// Addr is the host:port clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// LoseNextReply lets the server execute what it is sent next, swallows its reply and then closes that connection.
// Later replies pass.
func (p *Proxy) LoseNextReply() { p.LoseReplyAfter(0) }

// LoseReplyAfter does the same, but lets n replies pass first. Counting up n loses each reply of an exchange in turn.
func (p *Proxy) LoseReplyAfter(n int) { p.set(func() { p.lose, p.pass = loseNext, n }) }

// LoseReplies loses every reply, on all connections, until it is switched off.
func (p *Proxy) LoseReplies(on bool) {
	p.set(func() {
		p.lose = loseNone
		if on {
			p.lose = loseAll
		}
	})
}

// Lost is the number of connections whose reply was swallowed so far.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Delay keeps every reply back for a while. A very long one makes a server that hangs: it takes connections and
// commands and never answers.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// Refuse closes new connections at once until it is switched off. Those that stand are left alone; see [Proxy.Cut].
func (p *Proxy) Refuse(on bool) { p.set(func() { p.refuse = on }) }

// Cut closes all connections. What is on its way in either direction may be lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		l.close()
	}
}

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// serve connects a client with the server until either is gone.
func (p *Proxy) serve(client net.Conn) {
	server, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client.(*net.TCPConn), server: server.(*net.TCPConn), gone: make(chan struct{})}
	defer l.close()
	p.mu.Lock()
	if p.refuse || p.closed {
		p.mu.Unlock()
		return
	}
	p.conns[l] = true
	p.mu.Unlock()
	defer p.set(func() { delete(p.conns, l) })

	p.running.Go(l.requests)
	for {
		reply := make([]byte, 32<<10)
		n, err := l.server.Read(reply)
		if err != nil {
			return
		}
		if p.loses() {
			l.finish()
			return
		}
		if !p.wait(l) {
			return
		}
		if _, err := l.client.Write(reply[:n]); err != nil {
			return
		}
	}
}

// loses reports whether the reply at hand is to be lost, and counts it.
func (p *Proxy) loses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.lose {
	case loseNone:
		return false
	case loseNext:
		if p.pass > 0 {
			p.pass--
			return false
		}
		p.lose = loseNone
	case loseAll:
	}
	p.lost++
	return true
}

// wait keeps a reply back, and reports false if the connection has ended meanwhile.
func (p *Proxy) wait(l *link) bool {
	p.mu.Lock()
	delay := p.delay
	p.mu.Unlock()
	if delay == 0 {
		return true
	}
	select {
	case <-time.After(delay):
		return true
	case <-l.gone:
		return false
	}
}

// link is one client's connection and the one to the server that belongs to it.
type link struct {
	client, server *net.TCPConn
	once           sync.Once
	gone           chan struct{} // closed by close
}

// close closes both connections.
func (l *link) close() {
	l.once.Do(func() {
		close(l.gone)
		_ = l.client.Close()
		_ = l.server.Close()
	})
}

// requests passes on what the client sends, then tells the server that nothing more will come.
func (l *link) requests() {
	buffer := make([]byte, 256<<10)
	for {
		n, err := l.client.Read(buffer)
		if n > 0 {
			if _, err := l.server.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = l.server.CloseWrite()
}

// finish stops taking from the client and reads the server's replies to their end, so that the server has executed
// all it was sent before the client notices anything and tries again.
func (l *link) finish() {
	const patience = 2 * time.Second // for servers that do not hang up when their client does
	_ = l.client.SetReadDeadline(time.Now())
	_ = l.server.SetReadDeadline(time.Now().Add(patience))
	rest := make([]byte, 32<<10)
	for {
		if _, err := l.server.Read(rest); err != nil {
			return
		}
	}
}
