<?php

return ['driver' => 'array', 'lifetime' => 120, 'cookie' => 'session', 'path' => '/', 'domain' => null, 'secure' => null, 'lottery' => [0, 1]];
