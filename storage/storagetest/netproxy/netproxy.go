// Package netproxy stands between a client and a TCP server and does to their connections what a network does. It knows nothing of the
// protocol: a reply is whatever the server sends.
package netproxy

import (
	"net"
	"sync"
	"time"
)

// Proxy passes bytes on until it is told otherwise. Its methods are safe for concurrent use.
type Proxy struct {
	target   string
	patience time.Duration
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	links  map[*link]bool
	lose   int           // replies to lose, each with its connection; below 0: all
	spare  int           // replies to let pass before the next one is lost
	frozen chan struct{} // closed when bytes flow again; nil while they do
	delay  time.Duration // of replies
	refuse bool
	lost   int
	closed bool
}

// New starts a proxy to a server's host:port. After a lost reply it reads what the server still sends for as long as patience says, for
// servers that do not hang up when their client does: the client shall notice nothing before the server has executed what it was sent.
func New(listener net.Listener, target string, patience time.Duration) *Proxy {
	p := &Proxy{target: target, patience: patience, listener: listener, links: make(map[*link]bool)}
	p.running.Go(p.accept)
	return p
}

// Close closes everything and returns when all goroutines of the proxy have ended.
func (p *Proxy) Close() {
	p.set(func() { p.closed = true })
	_ = p.listener.Close()
	p.Flow()
	p.Cut()
	p.running.Wait()
}

// Addr is the host:port that clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// LoseReplies lets the server execute what it is sent next, swallows its reply and closes that connection, n times; below 0 until it
// is called with 0.
func (p *Proxy) LoseReplies(n int) { p.set(func() { p.lose, p.spare = n, 0 }) }

// LoseReplyAfter loses one reply, but lets n replies pass first. Counting up n loses each reply of an exchange in turn.
func (p *Proxy) LoseReplyAfter(n int) { p.set(func() { p.lose, p.spare = 1, n }) }

// Lost is how many replies were swallowed so far.
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

// Cut closes all connections. What is on its way in either direction may be lost. It returns how many there were.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
	return len(p.links)
}

// HalfOpen keeps all connections open and passes nothing on, in either direction, until [Proxy.Flow].
func (p *Proxy) HalfOpen() {
	p.set(func() {
		if p.frozen == nil {
			p.frozen = make(chan struct{})
		}
	})
}

// Flow ends HalfOpen the way a network does: the connections that stood are closed, new ones work.
func (p *Proxy) Flow() {
	p.set(func() {
		if p.frozen == nil {
			return
		}
		for l := range p.links {
			l.close()
		}
		close(p.frozen)
		p.frozen = nil
	})
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
	p.links[l] = true
	p.mu.Unlock()
	defer p.set(func() { delete(p.links, l) })
	p.running.Go(func() { p.requests(l) })
	p.replies(l)
}

// requests passes on what the client sends, then tells the server that nothing more will come.
func (p *Proxy) requests(l *link) {
	buffer := make([]byte, 256<<10)
	for {
		n, err := l.client.Read(buffer)
		if n > 0 {
			if !p.pass(l, 0) {
				return
			}
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

// replies passes on what the server sends.
func (p *Proxy) replies(l *link) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buffer)
		if err != nil {
			return
		}
		lost, delay := p.fate()
		if lost {
			l.finish(p.patience)
			return
		}
		if !p.pass(l, delay) {
			return
		}
		if _, err := l.client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// fate says what becomes of the reply at hand, and counts it if it is lost.
func (p *Proxy) fate() (lost bool, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.lose == 0:
		return false, p.delay
	case p.spare > 0:
		p.spare--
		return false, p.delay
	case p.lose > 0:
		p.lose--
	}
	p.lost++
	return true, 0
}

// pass waits for a time and while nothing flows, and reports false if the connection has ended meanwhile.
func (p *Proxy) pass(l *link, delay time.Duration) bool {
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-l.gone:
			return false
		}
	}
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	if frozen == nil {
		return true
	}
	select {
	case <-frozen:
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

// finish stops taking from the client and reads the server's replies to their end, or for a while.
func (l *link) finish(patience time.Duration) {
	_ = l.client.SetReadDeadline(time.Now())
	_ = l.server.SetReadDeadline(time.Now().Add(patience))
	rest := make([]byte, 32<<10)
	for {
		if _, err := l.server.Read(rest); err != nil {
			return
		}
	}
}
