<?php

namespace App\Exceptions;

use Throwable;

class Handler extends \Illuminate\Foundation\Exceptions\Handler
{
    public function report(Throwable $e)
    {
        if ($this->shouldReport($e)) {
            error_log($e);
        }
    }
}
